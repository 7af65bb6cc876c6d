// The tiles that stream past a block of attention along a sort. Where heads are narrow, a tile's tokens are
// known and its rows are on their way while the tile before it is multiplied.
#pragma once

#include "kernels/cuda/sorted_attention_scores.cuh"

namespace tern::kernels {
namespace {

/// Enqueues the copy of the rows of `tokens`, 64 of them; zeros where there is none.
template <class Shape>
__device__ __forceinline__ void gather_tile(std::uint32_t tile, const Heads<const bfloat16>& from,
                                            const TileTokens& tokens, int head, bool packed) {
  using Layout = TileLayout<Shape::width>;
#pragma unroll 4
  for (int i = 0; i < Shape::rows * Layout::row_packs / Shape::threads; ++i) {
    const int item = i * Shape::threads + static_cast<int>(threadIdx.x);
    const int row = item / Layout::row_packs, pack = item % Layout::row_packs;
    const int columns = row < tokens.count ? min(max(from.width - 8 * pack, 0), 8) : 0;
    const bfloat16* source = columns > 0 ? row_of(from, tokens.token[row], head) + 8 * pack : from.data;
    const std::uint32_t target = tile + Layout::offset(row, pack);
    if (packed) {
      copy_16(target, source, 2 * columns);
      continue;
    }
    std::uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 8; ++c)
      if (c < columns) word[c / 2] |= std::uint32_t{source[c].bits} << 16 * (c % 2);
    store_16(target, word);
  }
}

/// Two ranges of places in tiles of `rows`.
template <int rows>
struct StreamedTiles {
  PlaceRanges places;
  int wrapped, count;  ///< number of the first tile of the second range, and of all tiles
  __device__ StreamedTiles(const PlaceRanges& ranges)
      : places(ranges), wrapped(tiles_of(0)), count(wrapped + tiles_of(1)) {}
  __device__ int range(int tile) const { return tile < wrapped ? 0 : 1; }
  __device__ int first(int tile) const {
    return tile < wrapped ? places.first[0] + tile * rows : places.first[1] + (tile - wrapped) * rows;
  }
  __device__ int last(int tile) const { return tile < wrapped ? places.last[0] : places.last[1]; }

 private:
  __device__ int tiles_of(int range) const {
    return max(places.last[range] - places.first[range] + rows - 1, 0) / rows;
  }
};

/// Of a block's streamed tiles in shared memory.
template <class Shape>
constexpr int sorted_stages = Shape::width <= 64 ? 2 : 1;

/// Keys that stream past queries (`are_keys`), or queries past keys.
template <class Shape, bool are_keys>
class TileStream {
 public:
  static constexpr int rows = Shape::columns, stages = sorted_stages<Shape>;
  static_assert(Shape::threads >= rows);

  /// `memory` holds TileTokens for each stage.
  __device__ __forceinline__ TileStream(const SortedRound<bfloat16>& round, const PlaceRanges& places,
                                        int* memory)
      : ahead_(round), tiles_(places), memory_(memory) {}

  /// enqueue(tokens, stage) copies a tile's rows; multiply(tokens, stage) uses them. `round` meets the ranges.
  template <class Enqueue, class Multiply>
  __device__ __forceinline__ void run(SortedRound<bfloat16>& round, const Enqueue& enqueue,
                                      const Multiply& multiply) {
    if (tiles_.count == 0) return;
    int token = token_of(0);
    const auto advance = [&](int tile) {
      const TileTokens tokens = tokens_of(tile);
      if (static_cast<int>(threadIdx.x) < rows) tokens.token[threadIdx.x] = token;
      __syncthreads();
      enqueue(tokens, tile % stages);
      if (static_cast<int>(threadIdx.x) < rows) copy_segments(tokens, token);
      token = token_of(tile + 1);
    };
    advance(0);
#pragma unroll 1
    for (int tile = 0; tile < tiles_.count; ++tile) {
      if (stages == 1 && tile > 0) {
        __syncthreads();
        advance(tile);
      }
      wait_copies();
      __syncthreads();
      if (stages == 2 && tile + 1 < tiles_.count) advance(tile + 1);
      meet(round, tiles_.range(tile));
      multiply(tokens_of(tile), tile % stages);
    }
  }

 private:
  static __device__ __forceinline__ void meet(SortedRound<bfloat16>& round, int range) {
    if constexpr (are_keys)
      round.meet_keys(range);
    else
      round.meet_queries(range);
  }
  __device__ __forceinline__ TileTokens tokens_of(int tile) const {
    TileTokens tokens(memory_ + tile % stages * TileTokens::ints(rows, ahead_.rounds()), rows);
    tokens.count = min(tiles_.last(tile) - tiles_.first(tile), rows);
    return tokens;
  }
  /// This thread's token of a tile, from now on the one ahead; -1: none.
  __device__ __forceinline__ int token_of(int tile) {
    if (tile >= tiles_.count) return -1;
    meet(ahead_, tiles_.range(tile));
    const int place = tiles_.first(tile) + static_cast<int>(threadIdx.x);
    const bool exists = static_cast<int>(threadIdx.x) < rows && place < tiles_.last(tile);
    return exists ? ahead_.template token_at<are_keys>(place) : -1;
  }
  /// In the rounds that the scores will ask for.
  __device__ __forceinline__ void copy_segments(const TileTokens& tokens, int token) const {
    const int own = are_keys ? ahead_.key_round() : ahead_.query_round();
    const bool is_counted = ahead_.counts_rounds();
    for (int r = is_counted ? 0 : own; r < (is_counted ? ahead_.rounds() : own + 1); ++r) {
      int* const target = tokens.segment + r * rows + static_cast<int>(threadIdx.x);
      if (token < 0)
        *target = are_keys ? no_key : no_query;
      else
        copy_4(shared_address_of(target), ahead_.template segment_of<are_keys>(token, r), 4);
    }
  }

  SortedRound<bfloat16> ahead_;  ///< meets the range of the tile ahead
  StreamedTiles<rows> tiles_;
  int* memory_;
};

}  // namespace
}  // namespace tern::kernels
