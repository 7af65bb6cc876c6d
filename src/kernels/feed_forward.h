// The feed-forward block of an encoder layer: y = dropout(gelu(x up^T + up_bias)) down^T + down_bias.
// Deterministic.
#pragma once

#include "kernels/dropout.h"
#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// up [hidden, width], down [width, hidden] as linear layers hold them.
template <class T>
struct FeedForwardWeights {
  std::int64_t width, hidden;
  const T *up, *down;
  const Accumulate<T>*up_bias, *down_bias;
};
template <class T>
struct FeedForwardGradients {
  Accumulate<T>*up, *down, *up_bias, *down_bias;
};

/// `before` [rows, hidden] keeps the sums before the gelu for the backward pass; it may be null.
template <class T, Isa isa>
void feed_forward_forward(Cpu<isa>&, Rows<const T> x, const FeedForwardWeights<T>& weights,
                          const DropoutMask& mask, T* before, T* y);
template <class T>
void feed_forward_forward(Cuda&, Rows<const T> x, const FeedForwardWeights<T>& weights, const DropoutMask& mask,
                          T* before, T* y);
/// dx [rows, width] is overwritten; the gradients of the weights are added to, null ones are skipped. The
/// dropout is drawn again.
template <class T, Isa isa>
void feed_forward_backward(Cpu<isa>&, Rows<const T> x, const FeedForwardWeights<T>& weights,
                           const DropoutMask& mask, const T* before, const T* dy, T* dx,
                           const FeedForwardGradients<T>& gradients);
template <class T>
void feed_forward_backward(Cuda&, Rows<const T> x, const FeedForwardWeights<T>& weights,
                           const DropoutMask& mask, const T* before, const T* dy, T* dx,
                           const FeedForwardGradients<T>& gradients);
/// Whether the backward pass computes `before` again, so that nothing need be kept.
template <class T, Isa isa>
bool recomputes_feed_forward(Cpu<isa>&, std::int64_t, std::int64_t) {
  return false;
}
template <class T>
bool recomputes_feed_forward(Cuda&, std::int64_t width, std::int64_t hidden);

}  // namespace tern::kernels
