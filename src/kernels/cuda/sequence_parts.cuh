// The sequences of a ragged batch cut into parts, one for a block: the longest sequences come first, and blocks
// without a part clear rows that belong to no sequence.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {
namespace {

/// A block's part of the batch.
struct SequencePart {
  int sequence = -1;          ///< -1: none is left
  int begin = 0, length = 0;  ///< of the sequence
  int tile = 0, first = 0;    ///< the part's number in the sequence, and its first token there
  int spare = 0;              ///< without a sequence: the block's number among those
};

/// Parts of `rows` tokens.
struct RowCut {
  int rows;
  __device__ int count(int length) const { return (length + rows - 1) / rows; }
  __device__ int first(int tile) const { return tile * rows; }
};

/// Part `part` of all sequences: cut.count(length) are those of one, part `tile` of which begins at token
/// cut.first(tile). Whole warps take part.
template <class Cut>
__device__ inline SequencePart find_part(const Sequences& sequences, const Cut& cut, int part) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, count = static_cast<int>(sequences.count);
  int passed = 0;
  for (int base = 0; base < count; base += warp_lanes) {
    const int sequence = base + lane < count ? sequences.order[base + lane] : -1;
    const int begin = sequence < 0 ? 0 : sequences.offsets[sequence];
    const int length = sequence < 0 ? 0 : sequences.offsets[sequence + 1] - begin;
    const int parts = cut.count(length);
    int end = parts;
    for (int step = 1; step < warp_lanes; step *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, end, step);
      if (lane >= step) end += other;
    }
    const unsigned reached = __ballot_sync(0xFFFFFFFFu, passed + end > part);
    if (reached != 0) {
      const int found = __ffs(static_cast<int>(reached)) - 1;
      const int start = __shfl_sync(0xFFFFFFFFu, end - parts, found);
      const int tile = part - passed - start;
      return {.sequence = __shfl_sync(0xFFFFFFFFu, sequence, found),
              .begin = __shfl_sync(0xFFFFFFFFu, begin, found),
              .length = __shfl_sync(0xFFFFFFFFu, length, found),
              .tile = tile,
              .first = cut.first(tile)};
    }
    passed += __shfl_sync(0xFFFFFFFFu, end, warp_lanes - 1);
  }
  return {.spare = part - passed};
}
/// No batch has more parts, and where rows belong to no sequence, parts of `rows` of them fit in as well.
inline std::int64_t most_parts(const Sequences& sequences, int rows) {
  return (sequences.tokens + rows - 1) / rows + sequences.count;
}

/// The first of the `rows` rows that a block without a sequence clears.
__device__ inline std::int64_t spare_token(const Sequences& sequences, const SequencePart& part, int rows) {
  return sequences.offsets[sequences.count] + std::int64_t{part.spare} * rows;
}

/// Zeros in `rows` rows from token `token` on, as far as they exist.
template <class T>
__device__ inline void clear_rows(const Heads<T>& to, std::int64_t token, int head, int rows) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * to.width; i += static_cast<int>(blockDim.x))
    if (token + i / to.width < to.tokens) row_of(to, token + i / to.width, head)[i % to.width] = T{};
}

}  // namespace
}  // namespace tern::kernels
