// What attention over an AttentionPattern in float32 and float64 makes of the products q . k of a tile in
// registers (attention_simt_tiles.cuh).
#pragma once

#include "kernels/cuda/attention_simt_tiles.cuh"
#include "kernels/cuda/sparse_attention.cuh"

namespace tern::kernels {
namespace {

constexpr double log2_e = 1.44269504088896340736, ln_2 = 0.69314718055994530942;

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }

/// Scores in base 2, -infinity for pairs that are hidden.
template <class Tiles>
__device__ __forceinline__ void hide(const typename Tiles::Lane& lane, const TiledPattern& pattern,
                                     const SparseOptions& options, const SparseTile& tile,
                                     typename Tiles::Scores& scores) {
  using T = typename Tiles::Value;
  const T factor = static_cast<T>(options.scale * log2_e);
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; ++j) scores[r][j] *= factor;
  if (!tile.is_masked && tile.column_count >= Tiles::keys) return;
  int row_position[Tiles::thread_rows], column_position[Tiles::thread_keys];
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r) row_position[r] = tile.row_position(lane.row(r));
#pragma unroll
  for (int j = 0; j < Tiles::thread_keys; ++j) column_position[j] = tile.column_position(lane.key(j));
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; ++j) {
      const int row = lane.row(r), column = lane.key(j);
      if (column >= tile.column_count || (tile.is_masked && !pattern.sees(tile.row + row, tile.column + column,
                                                                          row_position[r], column_position[j])))
        scores[r][j] = -INFINITY;
    }
}

/// Calls visit(tiles, is_used) for each of those that the block's tile is paired with, Tiles::keys columns at a
/// time; `is_used`: by rows of this warp.
template <class Tiles, class Visit>
__device__ __forceinline__ void walk(const typename Tiles::Lane& lane, const TiledPattern& pattern,
                                     const SequencePart& place, const std::int32_t* position,
                                     const Visit& visit) {
  for (int tile = pattern.next(place.tile, 0); tile < pattern.tiles();
       tile = pattern.next(place.tile, tile + 1)) {
    const TilePair pair = pattern.pair(place.tile, tile, position);
    if (pair.rows == 0) continue;
    SparseTile tiles(pattern, place.tile, tile, pair, position);
    const bool is_used = lane.row(0) / Tiles::warp_rows * Tiles::warp_rows < tiles.used_rows;
    for (; tiles.used_columns > 0; tiles.advance(Tiles::keys)) visit(tiles, is_used);
  }
}

template <class Tiles>
struct RowStatistics {
  using T = typename Tiles::Value;
  T top[Tiles::thread_rows], total[Tiles::thread_rows];

  __device__ RowStatistics() {
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      top[r] = -INFINITY;
      total[r] = 0;
    }
  }
  /// Scores -> weights, in place; rescales the sums so far.
  __device__ __forceinline__ void weigh(typename Tiles::Scores& scores, typename Tiles::Sums& sums) {
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      T most = top[r];
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) most = scores[r][j] > most ? scores[r][j] : most;
      most = warp_max(most, Tiles::row_lanes);
      const T shift = most == -INFINITY ? T{0} : most;  // a row that has seen nothing yet
      const T rescale = power_of_two(top[r] - shift);
      top[r] = most;
      total[r] *= rescale;
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j)
        total[r] += scores[r][j] = power_of_two(scores[r][j] - shift);
#pragma unroll
      for (int c = 0; c < Tiles::thread_columns; ++c) sums[r][c] *= rescale;
    }
  }
  __device__ void finish() {
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) total[r] = warp_sum(total[r], Tiles::row_lanes);
  }
  __device__ T factor(int r) const { return total[r] == 0 ? T{0} : T{1} / total[r]; }
};

template <class T>
struct SparseBackward {
  Sequences sequences;
  AttentionInputs<T> in;
  SparseOptions options;
  Heads<const T> dy;
  const T *log_sums, *dots;  ///< [tokens, heads]
  AttentionGradients<T> out;
  SimtShape shape;
};

/// Scores -> weights for dv, slopes (dy . v) -> gradients of the scores, up to the scale.
template <class Tiles, bool keys_resident>
__device__ __forceinline__ void differentiate(const typename Tiles::Lane& lane,
                                              const SparseBackward<typename Tiles::Value>& arguments,
                                              std::int64_t begin, int head, const SparseTile& tile,
                                              typename Tiles::Scores& scores, typename Tiles::Scores& slopes) {
  using T = typename Tiles::Value;
  constexpr int count = keys_resident ? Tiles::thread_keys : Tiles::thread_rows;
  T shift[count], dot[count];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int query = keys_resident ? tile.column + min(lane.key(i), tile.column_count - 1)
                                    : tile.row + min(lane.row(i), tile.row_count - 1);
    const std::int64_t at = (begin + query) * arguments.in.q.heads + head;
    shift[i] = arguments.log_sums[at] * static_cast<T>(log2_e);
    dot[i] = arguments.dots[at];
  }
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; ++j) {
      const int query = keys_resident ? j : r;
      T& weight = scores[r][j];
      weight = weight == -INFINITY ? T{0} : power_of_two(weight - shift[query]);
      slopes[r][j] = weight * (slopes[r][j] - dot[query]);
    }
}

}  // namespace
}  // namespace tern::kernels
