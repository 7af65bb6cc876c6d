// Which rows of a ragged batch a block of attention works on: the longest sequences come first, blocks without
// work clear the rows that belong to no sequence.
#pragma once

#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

/// Slots of `rows` rows: enough for every sequence's tiles, and at least one to spare.
inline std::int64_t tile_slots(const Sequences& sequences, int rows) {
  return sequences.tokens / rows + sequences.count + 1;
}

struct AttentionPlace {
  int sequence;       ///< -1: a spare slot
  int begin, length;  ///< of the sequence; of a spare slot: its first row, the batch's rows
  int first;          ///< first row of the tile, counted in the sequence; of a spare slot: its step
  int head, slice;
};

struct PlaceScratch {
  int total[8];
  AttentionPlace place;
};

/// The place of block blockIdx.x = (slot * heads + head) * slices + slice. At most 256 threads, all take part.
template <int rows, int threads>
__device__ inline AttentionPlace find_place(const Sequences& sequences, int heads, int slices,
                                            std::int64_t slots, PlaceScratch& shared) {
  const unsigned part = blockIdx.x / static_cast<unsigned>(slices);
  const int slot = static_cast<int>(part / static_cast<unsigned>(heads)),
            thread = static_cast<int>(threadIdx.x);
  int before = 0;
  for (std::int64_t base = 0; base < sequences.count; base += threads) {
    const std::int64_t item = base + thread;
    int sequence = -1, begin = 0, length = 0;
    if (item < sequences.count) {
      sequence = sequences.order[item];
      begin = sequences.offsets[sequence];
      length = sequences.offsets[sequence + 1] - begin;
    }
    const int tiles = (length + rows - 1) / rows;
    int last = tiles;  // inclusive sums
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, last, step);
      if (thread % 32 >= step) last += other;
    }
    __syncthreads();
    if (thread % 32 == 31) shared.total[thread / 32] = last;
    __syncthreads();
    int sum = before;
#pragma unroll
    for (int warp = 0; warp < threads / 32; ++warp) {
      if (warp == thread / 32) last += sum;
      sum += shared.total[warp];
    }
    if (slot >= last - tiles && slot < last)
      shared.place = {.sequence = sequence,
                      .begin = begin,
                      .length = length,
                      .first = (slot - last + tiles) * rows,
                      .head = 0,
                      .slice = 0};
    before = sum;
    if (slot < before) break;
  }
  __syncthreads();
  AttentionPlace place{};
  if (slot < before) {
    place = shared.place;
  } else {
    const int tail = sequences.offsets[sequences.count];
    place.sequence = -1;
    place.begin = tail + (slot - before) * rows;
    place.length = static_cast<int>(sequences.tokens);
    place.first = static_cast<int>(slots - before) * rows;
  }
  place.head = static_cast<int>(part % static_cast<unsigned>(heads));
  place.slice = static_cast<int>(blockIdx.x % static_cast<unsigned>(slices));
  return place;
}

/// Clears a spare slot's rows of `x`.
template <int rows, int threads>
__device__ inline void clear_rows(const AttentionPlace& spare, const Heads<bfloat16>& x) {
  for (int begin = spare.begin; begin < spare.length; begin += spare.first) {
    const int count = min(rows, spare.length - begin) * x.width;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads)
      row_of(x, begin + i / x.width, spare.head)[i % x.width] = bfloat16{};
  }
}
/// Clears a spare slot's rows of [heads, tokens].
template <int rows, class T>
__device__ inline void clear_row_values(const AttentionPlace& spare, std::int64_t tokens, T* x) {
  for (int begin = spare.begin; begin < spare.length; begin += spare.first)
    if (const int row = begin + static_cast<int>(threadIdx.x); threadIdx.x < rows && row < spare.length)
      x[spare.head * tokens + row] = T{};
}

}  // namespace tern::kernels
