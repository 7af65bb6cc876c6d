// Host side of the sm_90a attention kernels: which calls they serve, tensor maps, and the plan that gives each
// block its sequence and rows.
#pragma once

#include <cstdint>
#include <initializer_list>

#include <cuda.h>

#include "base/cuda.h"
#include "kernels/attention.h"

namespace tern::kernels::hopper {

enum class Score { softmax, softmax_dropout, bernoulli };

/// Rows of one box of the copy engine, and of one warpgroup's product.
constexpr int box_rows = 64;

/// A block's share: rows start .. start + tile - 1 of the sequence whose tokens are first .. first + length
/// - 1. Length 0: nothing to do. Sequence -1: rows that belong to no sequence, which are cleared.
struct WorkItem {
  std::int32_t first, length, start, sequence;
};

/// Work items for tiles of `tile` rows, longest sequences first. Costs one launch.
struct TilePlan {
  TilePlan(Cuda& cuda, const Sequences& sequences, int tile);
  Scratch<WorkItem> items;
  std::int64_t count;  ///< bound known to the host: also what to launch
};

/// Whether this device, this program and these views suit the kernels.
bool serves(const Cuda& cuda, std::initializer_list<Heads<const bfloat16>> views);

/// Boxes of 64 tokens of one head and up to 64 columns, swizzled by the length of a row.
CUtensorMap tensor_map(Heads<const bfloat16> view);

/// The law of kernels/attention.h, prepared: a weight is kept if the byte's top bit is set in
/// majority((byte & 127) + bias, byte, either), four bytes at a time.
struct WeightDropout {
  std::uint32_t round_key[20];
  const std::uint32_t* step;
  const std::int64_t* sample;
  std::uint32_t bias, either;
  float keep;  ///< share of weights that are kept
};
WeightDropout prepare_dropout(const AttentionDropout& dropout, const std::int64_t* sample);

}  // namespace tern::kernels::hopper
