// The feed-forward block of width 64 and hidden width 128, bfloat16: one kernel forward, one backward and one
// that adds what its blocks leave. Hidden rows never leave the multiprocessor. Deterministic.
#pragma once

#include "kernels/feed_forward.h"

namespace tern::kernels {

/// Whether both kernels exist for these widths and fit this GPU.
bool has_fused_feed_forward(const Cuda& cuda, std::int64_t width, std::int64_t hidden);
/// What else they ask of addresses and strides: 16 bytes.
bool is_fusable(Rows<const bfloat16> x, const FeedForwardWeights<bfloat16>& weights, const bfloat16* dy,
                const bfloat16* out);

void fused_feed_forward(Cuda& cuda, Rows<const bfloat16> x, const FeedForwardWeights<bfloat16>& weights,
                        const DropoutMask& mask, bfloat16* y);
void fused_feed_forward_backward(Cuda& cuda, Rows<const bfloat16> x,
                                 const FeedForwardWeights<bfloat16>& weights, const DropoutMask& mask,
                                 const bfloat16* dy, bfloat16* dx,
                                 const FeedForwardGradients<bfloat16>& gradients);

}  // namespace tern::kernels
