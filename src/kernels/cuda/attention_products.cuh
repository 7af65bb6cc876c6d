// The products of attention on fragments, and what its three kernels share: shapes, arguments, row output.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention_draws.cuh"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_place.cuh"
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/attention_tiles.cuh"

namespace tern::kernels {

/// A block holds `warps` * 16 `row_tiles` rows and walks over the sequence in tiles of `columns`, in chunks of
/// 16 `groups` columns. Widths are padded with zeros to `width`; above 128, blocks compute `outputs` columns
/// each.
template <int width_, int row_tiles_, int groups_, int warps_, int columns_, int blocks_,
          bool keeps_rows_ = true>
struct AttentionShape {
  static constexpr int width = width_, row_tiles = row_tiles_, groups = groups_, warps = warps_;
  static constexpr int columns = columns_, blocks = blocks_;
  static constexpr bool keeps_rows = keeps_rows_;  ///< operands of the rows stay in registers
  static constexpr int depth = width / 16, outputs = width < 128 ? width : 128, slices = width / outputs;
  static constexpr int threads = 32 * warps, rows = 16 * row_tiles * warps, warp_rows = 16 * row_tiles;
  static constexpr int chunk = 16 * groups, chunks = columns / chunk, blocks16 = row_tiles * groups;
  static constexpr int row_bytes = TileLayout<width>::row_bytes;
  static constexpr int rows_bytes = rows * row_bytes, tile_bytes = columns * row_bytes;
  static_assert(columns % chunk == 0 && row_tiles <= 2);

  /// The 16 x 16 blocks of a chunk are numbered rows first.
  static constexpr int row_tile(int block) { return block % row_tiles; }
  static constexpr int group(int block) { return block / row_tiles; }

  using Outputs = float[row_tiles][outputs / 8][4];
  using Products = float[blocks16][2][4];
  using Weights = Fragment[blocks16];
  using FlatProducts = float[blocks16 * 8];
};

template <class Shape>
__device__ __forceinline__ void copy_rows(std::uint32_t tile, const RowSource& source, int first) {
  copy_tile<Shape::width, Shape::rows, Shape::threads, Shape::row_tiles == 2>(tile, source, first);
}
template <class Shape>
__device__ __forceinline__ void copy_columns(std::uint32_t tile, const RowSource& source, int first) {
  copy_tile<Shape::width, Shape::columns, Shape::threads>(tile, source, first);
}

struct AttentionArguments {
  Sequences sequences;
  Heads<const bfloat16> q, k, v;
  ScoreRule rule;
  std::int64_t slots;
  bool by_packs;  ///< all rows begin at multiples of 16 bytes
  KeyRows keys;
};

__device__ __forceinline__ RowSource row_source(const AttentionArguments& arguments,
                                                const Heads<const bfloat16>& x, const AttentionPlace& place) {
  return {row_of(x, place.begin, place.head), x.token_stride, place.length, x.width, arguments.by_packs};
}
/// The keys, or their values, of a place of queries.
__device__ __forceinline__ RowSource key_source(const AttentionArguments& arguments,
                                                const Heads<const bfloat16>& x, const AttentionPlace& place) {
  const KeyRows& keys = arguments.keys;
  const std::int64_t begin = keys.count > 0 ? std::int64_t{place.sequence} * keys.count : place.begin;
  return {row_of(x, begin, place.head), x.token_stride, keys.used(place.length), x.width, arguments.by_packs};
}

template <int count>
__device__ __forceinline__ void clear(float (&x)[count][2][4]) {
#pragma unroll
  for (int i = 0; i < count * 8; ++i) x[i / 8][i / 4 % 2][i % 4] = 0;
}

/// A warp's rows of an operand A that stays: in registers, or read again from shared memory.
template <class Shape>
struct StationaryRows {
  static constexpr int kept_tiles = Shape::keeps_rows ? Shape::row_tiles : 1,
                       kept_depth = Shape::keeps_rows ? Shape::depth : 1;
  Fragment kept[kept_tiles][kept_depth];
  std::uint32_t rows, lane;

  /// `tile` holds all rows of the block.
  __device__ __forceinline__ StationaryRows(std::uint32_t tile)
      : rows(tile + threadIdx.x / 32 * Shape::warp_rows * Shape::row_bytes),
        lane(TileLayout<Shape::width>::row_lane()) {}
  __device__ __forceinline__ void keep() {
    if constexpr (Shape::keeps_rows) {
#pragma unroll
      for (int i = 0; i < Shape::row_tiles * Shape::depth; ++i)
        kept[i / Shape::depth][i % Shape::depth] = load(i / Shape::depth, i % Shape::depth);
    }
  }
  __device__ __forceinline__ Fragment load(int tile, int k) const {
    return load_fragment(rows + tile * 16 * Shape::row_bytes + (lane ^ k << 5));
  }
  __device__ __forceinline__ Fragment get(int tile, int k) const {
    if constexpr (Shape::keeps_rows)
      return kept[tile][k];
    else
      return load(tile, k);
  }
};

/// s = rows . columns^T for the chunk of columns at address `chunk`.
template <class Shape>
__device__ __forceinline__ void multiply(typename Shape::Products& s, const StationaryRows<Shape>& rows,
                                         std::uint32_t chunk, std::uint32_t column_lane) {
  clear(s);
#pragma unroll
  for (int k = 0; k < Shape::depth; ++k) {
    Fragment a[Shape::row_tiles];
#pragma unroll
    for (int m = 0; m < Shape::row_tiles; ++m) a[m] = rows.get(m, k);
#pragma unroll
    for (int g = 0; g < Shape::groups; ++g) {
      const Fragment b = load_fragment(chunk + g * 16 * Shape::row_bytes + (column_lane ^ k << 5));
#pragma unroll
      for (int m = 0; m < Shape::row_tiles; ++m) {
        multiply_add(s[g * Shape::row_tiles + m][0], a[m], b.word[0], b.word[1]);
        multiply_add(s[g * Shape::row_tiles + m][1], a[m], b.word[2], b.word[3]);
      }
    }
  }
}

/// sum += weights . columns, for the rows at address `chunk` and the output columns of `slice`.
template <class Shape>
__device__ __forceinline__ void accumulate(typename Shape::Outputs& sum, const typename Shape::Weights& weights,
                                           std::uint32_t chunk, std::uint32_t row_lane, int slice) {
  const int first = Shape::slices > 1 ? slice * (Shape::outputs / 16) : 0;
#pragma unroll
  for (int g = 0; g < Shape::groups; ++g) {
#pragma unroll
    for (int n = 0; n < Shape::outputs / 16; ++n) {
      const Fragment b =
          load_transposed_fragment(chunk + g * 16 * Shape::row_bytes + (row_lane ^ (first + n) << 5));
#pragma unroll
      for (int m = 0; m < Shape::row_tiles; ++m) {
        multiply_add(sum[m][2 * n], weights[g * Shape::row_tiles + m], b.word[0], b.word[1]);
        multiply_add(sum[m][2 * n + 1], weights[g * Shape::row_tiles + m], b.word[2], b.word[3]);
      }
    }
  }
}

/// Clears what block `u` of a chunk says of keys from `count` of the chunk on.
template <class Shape>
__device__ __forceinline__ void clear_keys(int u, int count, float (&x)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int key = 16 * Shape::group(u) + 8 * (i / 4) + 2 * (static_cast<int>(threadIdx.x) % 4) + i % 2;
    if (key >= count) x[i / 4][i % 4] = 0;
  }
}

/// visit(c, columns left from there on) for the chunks of a tile of which `left` columns exist. Full tiles run
/// without branches, so that chunks overlap.
template <class Shape, class Visit>
__device__ __forceinline__ void visit_chunks(int left, const Visit& visit) {
  if (left >= Shape::columns) {
#pragma unroll
    for (int c = 0; c < Shape::chunks; ++c) visit(c, std::integral_constant<int, Shape::chunk>{});
  } else {
#pragma unroll 1
    for (int c = 0; c * Shape::chunk < left; ++c) visit(c, left - c * Shape::chunk);
  }
}
/// The same, where each chunk's products begin before the chunk before it is done.
template <class Shape, class Begin, class Finish>
__device__ __forceinline__ void visit_pipelined(int left, const Begin& begin, const Finish& finish) {
  typename Shape::Products s[2];
  if (left >= Shape::columns) {
    begin(s[0], 0);
#pragma unroll
    for (int c = 0; c < Shape::chunks; ++c) {
      if (c + 1 < Shape::chunks) begin(s[(c + 1) % 2], c + 1);
      finish(s[c % 2], c, std::integral_constant<int, Shape::chunk>{});
    }
  } else {
#pragma unroll 1
    for (int c = 0; c * Shape::chunk < left; ++c) {
      begin(s[0], c);
      finish(s[0], c, left - c * Shape::chunk);
    }
  }
}

template <class Shape>
__device__ __forceinline__ void clear_outputs(typename Shape::Outputs& x) {
#pragma unroll
  for (int i = 0; i < Shape::row_tiles * Shape::outputs / 2; ++i)
    x[i / (Shape::outputs / 2)][i / 4 % (Shape::outputs / 8)][i % 4] = 0;
}

/// This lane's row of a warp's row tile, counted in the block; `half` 0 or 1 for rows g and g + 8 of the tile.
/// A warp with two row tiles holds rows a, a + 8 in the first and a + 1, a + 9 in the second: see paired_row().
template <class Shape>
__device__ __forceinline__ int block_row(int tile, int half) {
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * Shape::warp_rows,
            g = static_cast<int>(threadIdx.x) % 32 / 4;
  if constexpr (Shape::row_tiles == 2)
    return warp_row + 16 * (g / 4) + 2 * (g % 4) + tile + 8 * half;
  else
    return warp_row + 16 * tile + 8 * half + g;
}

/// Writes the rows of a place that exist, times a factor for each row.
template <class Shape>
__device__ __forceinline__ void store_rows(const typename Shape::Outputs& x,
                                           const float (&factor)[Shape::row_tiles][2],
                                           const AttentionPlace& place, const Heads<bfloat16>& to) {
  const bool by_pairs =
      (reinterpret_cast<std::uintptr_t>(to.data) % 4 | (to.token_stride | to.head_stride) % 2) == 0;
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
    const int m = i / 2, half = i % 2, row = place.first + block_row<Shape>(m, half);
    if (row >= place.length) continue;
    bfloat16* target = row_of(to, place.begin + row, place.head);
#pragma unroll
    for (int n = 0; n < Shape::outputs / 8; ++n) {
      const int column = place.slice * Shape::outputs + 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4);
      const std::uint32_t pair =
          pack_bfloat16(x[m][n][2 * half] * factor[m][half], x[m][n][2 * half + 1] * factor[m][half]);
      if (by_pairs && column + 1 < to.width) {
        *reinterpret_cast<std::uint32_t*>(target + column) = pair;
        continue;
      }
      if (column < to.width) target[column].bits = static_cast<std::uint16_t>(pair);
      if (column + 1 < to.width) target[column + 1].bits = static_cast<std::uint16_t>(pair >> 16);
    }
  }
}

/// Sum over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}

}  // namespace tern::kernels
