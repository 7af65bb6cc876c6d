// Tiles of attention without tensor cores: how rows reach shared memory, and the two products of a tile. A
// block holds `rows` resident rows and streams `keys` rows at a time past them; a warp owns 16 or 32 of the
// resident rows, so the weights that it writes are read by itself alone.
//
// A lane holds patches of 4 x 4 weights, rows {a, a + 1, a + 8, a + 9} against {b, b + 1, b + 8, b + 9}: the
// shape that one dropout block serves (kernels/attention.h).
#pragma once

#include <cuda_pipeline_primitives.h>

#include "kernels/attention.h"
#include "kernels/cuda/sequence_parts.cuh"

namespace tern::kernels {
namespace {

template <class Tiles>
struct SimtLane;

/// Sizes of a tile. `columns` of the head's width are staged at a time and are what a block adds up.
template <class T, int columns_, int row_patches, int key_patches, int blocks_ = 1>
struct SimtTiles {
  using Value = T;
  static constexpr int warps = 4, threads = warps * warp_lanes;
  static constexpr int blocks = blocks_;  // that share a multiprocessor's registers
  static constexpr int columns = columns_;
  static constexpr int thread_rows = 4 * row_patches, thread_keys = 4 * key_patches;
  static constexpr int warp_rows = 16 * row_patches, rows = warps * warp_rows, keys = 32 * key_patches;
  static constexpr int items = pack_items<T>, thread_columns = columns / 8;
  // one pack of padding moves neighbouring rows to different banks
  static constexpr int stride = columns + items, weight_stride = keys + items;
  static constexpr int value_stride = stride;                // of rows that only add_weighted reads
  static constexpr int weight_items = rows * weight_stride;  // shared memory of the weights
  static constexpr int row_lanes = 8;                        // that hold parts of the same rows

  using Lane = SimtLane<SimtTiles>;
  using Scores = T[thread_rows][thread_keys];
  using Sums = T[thread_rows][thread_columns];
};

/// What a lane holds: rows of the tile by its place r or j in registers.
template <class Tiles>
struct SimtLane {
  int first_row, first_key, flip;
  __device__ SimtLane() {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, x = lane % 8;
    first_row = static_cast<int>(threadIdx.x) / warp_lanes * Tiles::warp_rows + lane / 8 * 2;
    first_key = x / 4 * 16 + x % 4 * 2;
    flip = x / 4;  // half of the lanes take odd rows first, or they would meet in the same banks
  }
  __device__ int row(int r) const { return first_row + r / 4 * 16 + (r & 2) * 4 + (r & 1); }
  __device__ int key(int j) const { return first_key + j / 4 * 32 + (j & 2) * 4 + ((j & 1) ^ flip); }
  /// Column of pack i of the sums.
  __device__ static int column(int i) { return (static_cast<int>(threadIdx.x) % 8 + 8 * i) * Tiles::items; }
};

/// How blocks share a head's width.
struct SimtShape {
  int chunks;   ///< of Tiles::columns columns that the width has
  bool packed;  ///< all rows may be moved 16 bytes at a time
};

/// The place of a block: part of a sequence, head, and the columns that it adds up.
struct SimtBlock {
  SequencePart part;
  int head, chunk;
  template <class Cut>
  __device__ SimtBlock(const Sequences& sequences, const Cut& cut, int heads, int chunks) {
    const int block = static_cast<int>(blockIdx.x);
    part = find_part(sequences, cut, block / (heads * chunks));
    head = block % (heads * chunks) / chunks;
    chunk = block % chunks;
  }
};

/// Shared memory of a block of queries that meets keys; `end` is free.
template <class Tiles>
struct SimtForwardMemory {
  using T = typename Tiles::Value;
  static constexpr int q_items = Tiles::rows * Tiles::stride, k_items = Tiles::keys * Tiles::stride,
                       v_items = Tiles::keys * Tiles::value_stride;
  static constexpr std::size_t bytes = sizeof(T) * (q_items + k_items + v_items + Tiles::weight_items);
  T *q, *k, *v, *weights, *end;
  __device__ explicit SimtForwardMemory(std::byte* shared)
      : q(reinterpret_cast<T*>(shared)),
        k(q + q_items),
        v(k + k_items),
        weights(v + v_items),
        end(weights + Tiles::weight_items) {}
};

/// Shared memory of a block of queries or keys that meets the others; slopes are rows of dout or v.
template <class Tiles>
struct SimtBackwardMemory {
  using T = typename Tiles::Value;
  static constexpr int own_items = Tiles::rows * Tiles::stride, other_items = Tiles::keys * Tiles::stride;
  static constexpr std::size_t bytes = sizeof(T) * (2 * (own_items + other_items) + Tiles::weight_items);
  T *own, *own_slopes, *other, *other_slopes, *weights;
  __device__ explicit SimtBackwardMemory(std::byte* shared)
      : own(reinterpret_cast<T*>(shared)),
        own_slopes(own + own_items),
        other(own_slopes + own_items),
        other_slopes(other + other_items),
        weights(other_slopes + other_items) {}
};

/// Starts the copy of columns `column` .. + Tiles::columns - 1 of `count` rows from token `token` on; what lies
/// outside rows and width becomes zero. `packed`: 16-byte accesses are allowed.
template <class Tiles, int rows, int stride>
__device__ __forceinline__ void stage_rows(typename Tiles::Value* to,
                                           const Heads<const typename Tiles::Value>& from, std::int64_t token,
                                           int head, int count, int column, bool packed) {
  using T = typename Tiles::Value;
  const T* source = row_of(from, token, head);
  const auto copy = [&]<int items>(std::integral_constant<int, items>) {
    constexpr int row_packs = Tiles::columns / items;
    for (int i = static_cast<int>(threadIdx.x); i < rows * row_packs; i += Tiles::threads) {
      const int row = i / row_packs, place = i % row_packs * items;
      const bool exists = row < count && column + place < from.width;
      __pipeline_memcpy_async(to + row * stride + place,
                              exists ? source + row * from.token_stride + column + place : source,
                              items * sizeof(T), exists ? 0 : items * sizeof(T));
    }
  };
  if (packed)
    copy(std::integral_constant<int, Tiles::items>{});
  else
    copy(std::integral_constant<int, 1>{});
}

/// scores += resident streamed^T over the staged columns.
template <class Tiles>
__device__ __forceinline__ void add_products(const SimtLane<Tiles>& lane, const typename Tiles::Value* resident,
                                             const typename Tiles::Value* streamed,
                                             typename Tiles::Scores& scores) {
  using T = typename Tiles::Value;
  constexpr int items = Tiles::items;
  const T* const left = resident + lane.row(0) * Tiles::stride;
  const T* const right[2] = {streamed + lane.key(0) * Tiles::stride, streamed + lane.key(1) * Tiles::stride};
#pragma unroll 2
  for (int c = 0; c < Tiles::columns; c += items) {
    Pack<T, items> keys[Tiles::thread_keys];
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; ++j)
      keys[j] = load_pack<items>(right[j & 1] + (j / 4 * 32 + (j & 2) * 4) * Tiles::stride + c);
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      const auto row = load_pack<items>(left + (lane.row(r) - lane.row(0)) * Tiles::stride + c);
#pragma unroll
      for (int i = 0; i < items; ++i)
#pragma unroll
        for (int j = 0; j < Tiles::thread_keys; ++j) scores[r][j] += row.item[i] * keys[j].item[i];
    }
  }
}

/// Shows the warp's weights to its lanes: no other warp reads them.
template <class Tiles>
__device__ __forceinline__ void share_weights(const SimtLane<Tiles>& lane,
                                              const typename Tiles::Scores& weights,
                                              typename Tiles::Value* shared) {
  __syncwarp();
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; ++j)
      shared[lane.row(r) * Tiles::weight_stride + lane.key(j)] = weights[r][j];
  __syncwarp();
}

/// sums += weights streamed. `shared` holds weights between lanes.
template <class Tiles, int stride>
__device__ __forceinline__ void add_weighted(const SimtLane<Tiles>& lane, const typename Tiles::Scores& weights,
                                             typename Tiles::Value* shared,
                                             const typename Tiles::Value* streamed,
                                             typename Tiles::Sums& sums) {
  using T = typename Tiles::Value;
  constexpr int items = Tiles::items, packs = Tiles::thread_columns / items;
  share_weights<Tiles>(lane, weights, shared);
  const T* const left = shared + lane.row(0) * Tiles::weight_stride;
#pragma unroll 2
  for (int key = 0; key < Tiles::keys; key += items) {
    Pack<T, items> values[items][packs];
#pragma unroll
    for (int i = 0; i < items; ++i)
#pragma unroll
      for (int p = 0; p < packs; ++p)
        values[i][p] = load_pack<items>(streamed + (key + i) * stride + lane.column(p));
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      const auto weight = load_pack<items>(left + (lane.row(r) - lane.row(0)) * Tiles::weight_stride + key);
#pragma unroll
      for (int i = 0; i < items; ++i)
#pragma unroll
        for (int c = 0; c < Tiles::thread_columns; ++c)
          sums[r][c] += weight.item[i] * values[i][c / items].item[c % items];
    }
  }
}

/// Writes factor(r) * sums of the block's rows that exist, from column `column` of the head on.
template <class Tiles, class Factor>
__device__ __forceinline__ void write_sums(const typename Tiles::Lane& lane, const typename Tiles::Sums& sums,
                                           const Heads<typename Tiles::Value>& to, std::int64_t token, int head,
                                           int count, int column, bool packed, Factor factor) {
  using T = typename Tiles::Value;
  constexpr int items = Tiles::items;
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r) {
    if (lane.row(r) >= count) continue;
    T* const row = row_of(to, token + lane.row(r), head);
    const T scale = factor(r);
#pragma unroll
    for (int p = 0; p < Tiles::thread_columns / items; ++p) {
      const int first = column + lane.column(p);
      Pack<T, items> pack;
#pragma unroll
      for (int i = 0; i < items; ++i) pack.item[i] = scale * sums[r][p * items + i];
      if (packed && first < to.width) store_pack(row + first, pack);
#pragma unroll
      for (int i = 0; i < items; ++i)
        if (!packed && first + i < to.width) row[first + i] = pack.item[i];
    }
  }
}

/// Whether all rows of a view may be read and written 16 bytes at a time.
template <class T>
bool has_packed_rows(const Heads<T>& view) {
  constexpr int items = pack_items<std::remove_const_t<T>>;
  return is_aligned(16, view.data) && view.width % items == 0 && view.token_stride % items == 0 &&
         view.head_stride % items == 0;
}

template <class Tiles, class... Views>
SimtShape shape_of(int width, const Views&... views) {
  return {(width + Tiles::columns - 1) / Tiles::columns, (has_packed_rows(views) && ...)};
}

}  // namespace
}  // namespace tern::kernels
