// The parts of bfloat16 attention: kernels and their launches, one file each.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/attention_scores.cuh"

namespace tern::kernels {

/// Which rows of k and v are the keys of a sequence: its tokens, or rows of its own (`count` > 0), of sequence
/// s from row s * count on; `limited`: no more of them than it has tokens.
struct KeyRows {
  int count = 0;
  bool limited = false;
  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int used(int tokens) const {
    return count == 0 || (limited && tokens < count) ? tokens : count;
  }
};

/// What one call of attention works on.
struct AttentionTask {
  Scores scores;
  ScoreRule rule;
  Sequences sequences;
  AttentionInputs<bfloat16> in;
  KeyRows keys{};
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
/// The same for keys in rows of their own: [sequences, heads, task.keys.count, width], zeros in unused rows.
void launch_key_gradient(Cuda&, const AttentionTask&, const QueryStatistics* statistics,
                         Heads<const bfloat16> dout, float* dk, float* dv);

}  // namespace tern::kernels
