// The two passes of the sm_90a attention backward and what they read.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_hopper_tiles.h"

namespace tern::kernels::hopper {

/// Rows of a block, in both passes: one warpgroup for 64 of them. Registers set the number of warpgroups.
constexpr int backward_rows(int width) { return width == 128 ? 128 : 192; }

/// Of 64 neighbouring queries: log2(e) times their log-sum-exp, and sum_c dout out times the kept share of
/// weights.
struct RowStatistics {
  float lse[box_rows], delta[box_rows];
};

struct BackwardMaps {
  CUtensorMap q, k, v, dout;
};
struct BackwardTask {
  const WorkItem* items;
  /// [heads, statistics_blocks], softmax only: a sequence starts at its own block, and its last one is filled
  /// up with {infinity, 0}, which makes weights of 0.
  const RowStatistics* statistics;
  std::int64_t statistics_blocks;
  Heads<bfloat16> dq, dk, dv;
  float scale = 1, gradient_scale = 1;  ///< of scores, and of what the pair products yield for dq and dk
  float kept_share = 1;                 ///< of the weights, by dropout
  WeightDropout dropout{};
  int bits = 1;                 ///< bernoulli only
  bool is_exact = false;        ///< bernoulli only
  UnitRows<bfloat16> q{}, k{};  ///< bernoulli only; with data, gradients are those of rows before the scaling
  int first_head = 0;
  /// [heads from first_head on, statistics_blocks, 64 x width], null for dq by a pass of its own. Starts as
  /// zeros; the order within a block is that of accumulators.
  float* dq_blocks = nullptr;
};
/// Block of a sequence's first 64 tokens.
TERN_HOST_DEVICE inline std::int64_t first_block(const WorkItem& item) {
  return (std::int64_t{item.first} + box_rows - 1) / box_rows + item.sequence;
}

/// dk and dv: keys in registers, queries pass by. Adds to dq_blocks if there are any.
template <Score score>
void launch_key_gradients(Cuda& cuda, const BackwardMaps& maps, const BackwardTask& task, std::int64_t items,
                          int heads);
/// dq: queries in registers, keys pass by.
template <Score score>
void launch_query_gradients(Cuda& cuda, const BackwardMaps& maps, const BackwardTask& task, std::int64_t items);

}  // namespace tern::kernels::hopper
