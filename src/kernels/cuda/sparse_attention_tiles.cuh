// The parts of attention over an AttentionPattern on tensor cores: places, tiles in shared memory, hidden
// pairs.
#pragma once

#include "kernels/cuda/attention_products.cuh"
#include "kernels/cuda/sparse_attention.cuh"

namespace tern::kernels {
namespace {

constexpr float log2_e = 1.44269504f, ln_2 = 0.69314718f;

struct SparseArguments {
  Sequences sequences;
  Heads<const bfloat16> q, k, v;
  SparseOptions options;
  bool by_packs;  ///< all rows begin at multiples of 16 bytes
};

/// The block's place: tile, head, and the slice of columns that it adds up.
struct SparseBlock {
  SequencePart place;
  int head, slice;
  __device__ SparseBlock(const SparseArguments& in, int slices) {
    const int block = static_cast<int>(blockIdx.x), parts = in.q.heads * slices;
    place = find_part(in.sequences, TileCut{in.options.pattern.block}, block / parts);
    head = block % parts / slices;
    slice = block % slices;
  }
  /// What store_rows() writes: the block's tile.
  __device__ AttentionPlace rows(const TiledPattern& pattern) const {
    const int first = pattern.first(place.tile);
    return {.sequence = place.sequence,
            .begin = place.begin,
            .length = first + pattern.tokens(place.tile),
            .first = first,
            .head = head,
            .slice = slice};
  }
};

/// Enqueues the copy of a tile of `x`.
template <class Shape>
__device__ __forceinline__ void copy_sparse_tile(std::uint32_t to, const SparseArguments& in,
                                                 const Heads<const bfloat16>& x, const SparseBlock& block,
                                                 const TiledPattern& pattern, int tile) {
  const RowSource rows{row_of(x, block.place.begin + pattern.first(tile), block.head), x.token_stride,
                       pattern.tokens(tile), x.width, in.by_packs};
  copy_columns<Shape>(to, rows, 0);
}

/// Element i of block u of a chunk's products: its row in the tile, and its column behind the chunk's first.
template <class Shape>
__device__ __forceinline__ int product_row(int u, int i) {
  return block_row<Shape>(Shape::row_tile(u), i % 4 / 2);
}
template <class Shape>
__device__ __forceinline__ int product_column(int u, int i) {
  return 16 * Shape::group(u) + 8 * (i / 4) + 2 * (static_cast<int>(threadIdx.x) % 4) + i % 2;
}

/// Scores in base 2, -infinity for pairs that are hidden; the chunk's columns begin at `first` of the tile.
template <class Shape>
__device__ __forceinline__ void hide(typename Shape::Products& s, const TiledPattern& pattern,
                                     const SparseOptions& options, const SparseTile& tile, int first) {
  static_assert(Shape::row_tiles == 1);
  const float factor = static_cast<float>(options.scale) * log2_e;
#pragma unroll
  for (int i = 0; i < 8 * Shape::blocks16; ++i) s[i / 8][i / 4 % 2][i % 4] *= factor;
  if (!tile.is_masked && tile.column_count >= first + Shape::chunk) return;
  const int row_position[2] = {tile.row_position(block_row<Shape>(0, 0)),
                               tile.row_position(block_row<Shape>(0, 1))};
#pragma unroll
  for (int i = 0; i < 4 * Shape::blocks16; ++i) {  // two rows at a time
    const int u = i / 4, place = i % 4 / 2 * 4 + i % 2, column = first + product_column<Shape>(u, place),
              position = tile.column_position(column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool is_seen = !tile.is_masked || pattern.sees(tile.row + block_row<Shape>(0, half),
                                                           tile.column + column, row_position[half], position);
      if (column >= tile.column_count || !is_seen) s[u][place / 4][place % 4 + 2 * half] = -INFINITY;
    }
  }
}

/// Tiles of the other side that shared memory holds at once.
template <class Shape>
constexpr int streamed_tiles = Shape::width > 128 ? 1 : 2;

/// Calls visit(place, tile) for the tiles that the block's is paired with while their rows lie in shared
/// memory; copy(place, tile) enqueues the copy of a tile's rows to one of streamed_tiles places.
template <class Shape, class Copy, class Visit>
__device__ __forceinline__ void walk(const TiledPattern& pattern, const SequencePart& place,
                                     const std::int32_t* position, const Copy& copy, const Visit& visit) {
  constexpr bool copies_ahead = streamed_tiles<Shape> == 2;
  int tile = pattern.next(place.tile, 0), side = 0;
  if (copies_ahead && tile < pattern.tiles()) copy(side, tile);
  while (tile < pattern.tiles()) {
    const int next = pattern.next(place.tile, tile + 1);
    if (!copies_ahead) {
      __syncthreads();
      copy(side, tile);
    }
    wait_copies();
    __syncthreads();
    if (copies_ahead && next < pattern.tiles()) copy(1 - side, next);
    const TilePair pair = pattern.pair(place.tile, tile, position);
    if (pair.rows > 0) visit(side, SparseTile(pattern, place.tile, tile, pair, position));
    if (copies_ahead) side = 1 - side;
    tile = next;
  }
}

}  // namespace
}  // namespace tern::kernels
