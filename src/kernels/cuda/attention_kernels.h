// The parts of bfloat16 attention: kernels and their launches, one file each.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/attention_scores.cuh"

namespace tern::kernels {

/// What one call of attention works on.
struct AttentionTask {
  Scores scores;
  ScoreRule rule;
  Sequences sequences;
  AttentionInputs<bfloat16> in;
};

/// Statistics of a query for the gradients: 2^(exponent_scale q . k - shift) are its weights; delta = dout .
/// out.
struct QueryStatistics {
  float shift, delta;
};

/// `lse` is null for scores without a sum.
void launch_attention_forward(Cuda&, const AttentionTask&, Heads<bfloat16> out, float* lse);
/// Writes dq and, for softmax, `statistics` [heads, tokens]. `result` is empty for scores without a sum.
void launch_query_gradient(Cuda&, const AttentionTask&, const SoftmaxResult<bfloat16>& result,
                           Heads<const bfloat16> dout, Heads<bfloat16> dq, QueryStatistics* statistics);
/// Writes dk and dv, after launch_query_gradient.
void launch_key_gradient(Cuda&, const AttentionTask&, const QueryStatistics* statistics,
                         Heads<const bfloat16> dout, Heads<bfloat16> dk, Heads<bfloat16> dv);

}  // namespace tern::kernels
