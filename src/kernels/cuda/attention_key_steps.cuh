// One step of attention's gradients with keys as rows: a tile of queries, and the slopes of its scores.
#pragma once

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {

/// Queries of one step: rows of q, rows of dout, statistics.
template <class Shape>
struct QueryTile {
  static constexpr int statistics_bytes = Shape::columns * static_cast<int>(sizeof(QueryStatistics)),
                       bytes = 2 * Shape::tile_bytes + statistics_bytes;
  static_assert(Shape::columns <= Shape::threads);

  template <Scores scores>
  static __device__ __forceinline__ void copy(std::uint32_t tile, const RowSource& queries,
                                              const RowSource& douts, const QueryStatistics* statistics,
                                              int first) {
    copy_columns<Shape>(tile, queries, first);
    copy_columns<Shape>(tile + Shape::tile_bytes, douts, first);
    const int row = static_cast<int>(threadIdx.x);
    if (scores != Scores::bernoulli && row < Shape::columns) {
      const bool exists = first + row < queries.valid;
      copy_8(tile + 2 * Shape::tile_bytes + row * static_cast<int>(sizeof(QueryStatistics)),
             statistics + (exists ? first + row : 0), exists ? 8 : 0);
    }
  }
};

/// Statistics of this lane's two neighbouring queries.
struct StatisticsPair {
  float shift0, delta0, shift1, delta1;
};
__device__ __forceinline__ StatisticsPair load_statistics(std::uint32_t address) {
  StatisticsPair pair;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(pair.shift0), "=f"(pair.delta0), "=f"(pair.shift1), "=f"(pair.delta1)
               : "r"(address)
               : "memory");
  return pair;
}

/// Entry (i % 4) of the accumulators packed in words i / 2, as a float.
__device__ __forceinline__ float unpacked(const Fragment& packed, int i) {
  const std::uint32_t pair = packed.word[i / 2];
  return __uint_as_float(i % 2 ? pair & 0xFFFF0000u : pair << 16);
}

/// From products s = k q^T and slopes = v dout^T of a chunk to its packed weights and dS. Rows of queries that
/// do not exist are zero, so they add nothing.
template <Scores scores, class Shape, class Draws>
__device__ __forceinline__ void differentiate_transposed(const ScoreRule& rule, const Draws& draws, int query,
                                                         std::uint32_t statistics, typename Shape::Products& s,
                                                         typename Shape::Products& slopes,
                                                         typename Shape::Weights& weights,
                                                         typename Shape::Weights& packed_slopes) {
  float delta[2 * Shape::groups][2];
#pragma unroll
  for (int g = 0; g < 2 * Shape::groups; ++g) {  // eight queries at a time
    const StatisticsPair pair = load_statistics(
        statistics + static_cast<std::uint32_t>((8 * g + 2 * (threadIdx.x % 4)) * sizeof(QueryStatistics)));
    delta[g][0] = pair.delta0;
    delta[g][1] = pair.delta1;
#pragma unroll
    for (int i = 0; i < 4 * Shape::row_tiles; ++i) {
      float& x = s[g / 2 * Shape::row_tiles + i / 4][g % 2][i % 4];
      x = power_of_two(fmaf(rule.exponent_scale, x, i % 2 ? -pair.shift1 : -pair.shift0));
    }
  }
  KeptBits kept[Shape::row_tiles];
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) {
    weights[u] = pack_fragment(s[u]);
    if constexpr (scores == Scores::dropped_softmax) {
      if (Shape::row_tile(u) == 0) draws.draw(rule, query + 16 * Shape::group(u), kept);
      Draws::drop(weights[u], kept[Shape::row_tile(u)]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& slope = slopes[u][i / 4][i % 4];
      const float p = s[u][i / 4][i % 4], d = delta[2 * Shape::group(u) + i / 4][i % 2];
      if constexpr (scores == Scores::dropped_softmax)
        slope = fmaf(unpacked(weights[u], i), slope, -p * d);
      else
        slope = p * (slope - d);
    }
    packed_slopes[u] = pack_fragment(slopes[u]);
  }
}

template <class Shape>
__device__ __forceinline__ void differentiate_collisions(const ScoreRule& rule, typename Shape::Products& s,
                                                         typename Shape::Products& slopes,
                                                         typename Shape::Weights& weights,
                                                         typename Shape::Weights& packed_slopes) {
  collision_slopes(reinterpret_cast<typename Shape::FlatProducts&>(s),
                   reinterpret_cast<typename Shape::FlatProducts&>(slopes), rule);
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) {
    weights[u] = pack_fragment(s[u]);
    packed_slopes[u] = pack_fragment(slopes[u]);
  }
}

template <class Shape>
__device__ __forceinline__ void finish_keys(const ScoreRule& rule, const typename Shape::Outputs& dk,
                                            const typename Shape::Outputs& dv, const AttentionPlace& place,
                                            const Heads<bfloat16>& dk_rows, const Heads<bfloat16>& dv_rows) {
  float key_factor[Shape::row_tiles][2], value_factor[Shape::row_tiles][2];
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
    key_factor[i / 2][i % 2] = rule.scale * rule.keep_scale;
    value_factor[i / 2][i % 2] = rule.keep_scale;
  }
  store_rows<Shape>(dk, key_factor, place, dk_rows);
  store_rows<Shape>(dv, value_factor, place, dv_rows);
}

}  // namespace tern::kernels
