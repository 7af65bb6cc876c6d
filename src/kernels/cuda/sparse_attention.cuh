// What the kernels of attention over an AttentionPattern share: their blocks, pairs of tiles, and the products
// of rows that the backward pass needs. A block owns one tile of rows in one head and walks over the tiles that
// it is paired with, so sums have one owner and a fixed order.
#pragma once

#include "kernels/attention_pattern.h"
#include "kernels/cuda/sequence_parts.cuh"
#include "kernels/sparse_attention.h"

namespace tern::kernels {
namespace {

/// Blocks of a launch: no batch has more tiles, and where rows belong to no sequence, pieces of 64 of them fit
/// in as well. `slices` blocks share a tile and head.
inline unsigned sparse_blocks(const Sequences& sequences, TileCut cut, int heads, int slices) {
  const std::int64_t tiles = sequences.tokens * cut.block_tiles() / cut.block + sequences.count + 1;
  const std::int64_t blocks = tiles * heads * slices;
  require(
      blocks < std::int64_t{1} << 31,
      "sparse_attention: tiles x heads must lie below 2^31, got {} tokens in blocks of {} and {} heads; use "
      "larger blocks or smaller batches",
      sequences.tokens, cut.block, heads);
  return static_cast<unsigned>(blocks);
}

/// Zeros in the rows of a spare place.
template <class T>
__device__ inline void clear_spare(const Sequences& sequences, const SequencePart& place, int head,
                                   const Heads<T>& to) {
  clear_rows(to, spare_token(sequences, place, tile_tokens), head, tile_tokens);
}
template <class A>
__device__ inline void clear_spare_sums(const Sequences& sequences, const SequencePart& place, int head,
                                        int heads, A* log_sums) {
  const std::int64_t token = spare_token(sequences, place, tile_tokens) + static_cast<int>(threadIdx.x);
  if (threadIdx.x < tile_tokens && token < sequences.tokens) log_sums[token * heads + head] = 0;
}

/// dots[token, head] = sum_c y dy - dlog_sums, by eight lanes.
template <class T>
__global__ void multiply_sparse_rows(SparseResult<T> result, SparseSlopes<T> slopes, Accumulate<T>* dots) {
  const Heads<const T>&y = result.y, &dy = slopes.dy;
  const std::int64_t rows = y.tokens * y.heads;
  const int lane = static_cast<int>(threadIdx.x) % 8;
  for (std::int64_t row = thread_index() / 8; row - row % 4 < rows; row += grid_threads() / 8) {
    const std::int64_t token = row / y.heads, head = row % y.heads;
    Accumulate<T> sum = 0;
    if (row < rows)
      for (int c = lane; c < y.width; c += 8)
        sum += to_accumulate(y.data[token * y.token_stride + head * y.head_stride + c]) *
               to_accumulate(dy.data[token * dy.token_stride + head * dy.head_stride + c]);
    sum = warp_sum(sum, 8);
    if (lane == 0 && row < rows)
      dots[row] = sum - (slopes.dlog_sums == nullptr ? Accumulate<T>{0} : slopes.dlog_sums[row]);
  }
}
template <class T>
void launch_sparse_dots(Cuda& cuda, const SparseResult<T>& result, const SparseSlopes<T>& slopes,
                        Accumulate<T>* dots) {
  constexpr int threads = 256;
  const std::int64_t items = result.y.tokens * result.y.heads * 8;
  multiply_sparse_rows<T><<<grid_for(cuda, items, threads), threads, 0, cuda.stream>>>(result, slopes, dots);
  check_launch("sparse_attention: products of rows");
}

constexpr int far_position = 0x7FFFFFFF;

/// Two tiles that a block multiplies: tokens count from the first one of the sequence.
struct SparseTile {
  int row, column;               ///< first tokens
  int row_count, column_count;   ///< tokens that exist
  int used_rows, used_columns;   ///< from there on no pair is visible
  bool is_far;                   ///< global tokens alone are visible
  bool is_masked;                ///< some other pairs are hidden
  const std::int32_t* position;  ///< of the sequence's tokens

  __device__ SparseTile(const TiledPattern& pattern, int row_tile, int column_tile, const TilePair& pair,
                        const std::int32_t* positions)
      : row(pattern.first(row_tile)),
        column(pattern.first(column_tile)),
        row_count(pattern.tokens(row_tile)),
        column_count(pattern.tokens(column_tile)),
        used_rows(pair.rows),
        used_columns(pair.columns),
        is_far(pair.rows < row_count || pair.columns < column_count),
        is_masked(pair.is_partial || is_far),
        position(positions) {}
  /// Leaves out the first `columns` columns.
  __device__ void advance(int columns) {
    column += columns;
    column_count -= columns;
    used_columns -= columns;
  }
  /// Positions of tokens of the tile, of the last one for those beyond it; any two that are far apart where no
  /// window reaches from rows to columns.
  __device__ int row_position(int r) const { return is_far ? 0 : position[row + min(r, row_count - 1)]; }
  __device__ int column_position(int c) const {
    return is_far ? far_position : position[column + min(c, column_count - 1)];
  }
};

}  // namespace
}  // namespace tern::kernels
