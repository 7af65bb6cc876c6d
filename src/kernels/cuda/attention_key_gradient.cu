// Gradients of the keys and values of bfloat16 attention on tensor cores (compute capability 8.0 and later): 8
// width flops a score. Deterministic: each key belongs to one warp, which visits the queries in order. Products
// are transposed, so that weights and dS are operands without exchange.
//
//   softmax     dv = dropped P^T dout, dk = scale dS^T q, dS = P * (dropped dout v^T - delta)
//   bernoulli   dv = P^T dout, dk = dS^T q, dS = (dout v^T) * slope(q k^T)
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {
namespace {

struct KeyGradientArguments {
  AttentionArguments common;
  Heads<const bfloat16> dout;
  Heads<bfloat16> dk, dv;
  const QueryStatistics* statistics;
};

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
__device__ __forceinline__ void differentiate(const ScoreRule& rule, const Draws& draws, int query,
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

template <Scores scores, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    key_gradient(const __grid_constant__ KeyGradientArguments arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ PlaceScratch place_scratch;
  const AttentionArguments& in = arguments.common;
  const AttentionPlace place =
      find_place<Shape::rows, Shape::threads>(in.sequences, in.q.heads, Shape::slices, in.slots, place_scratch);
  if (place.sequence < 0) {
    clear_rows<Shape::rows, Shape::threads>(place, arguments.dk);
    clear_rows<Shape::rows, Shape::threads>(place, arguments.dv);
    return;
  }
  using Step = QueryTile<Shape>;
  const RowSource query_rows = row_source(in, in.q, place), dout_rows = row_source(in, arguments.dout, place);
  const QueryStatistics* statistics = arguments.statistics + place.head * in.sequences.tokens + place.begin;
  const std::uint32_t key_tile = shared_address_of(memory), value_tile = key_tile + Shape::rows_bytes;
  copy_rows<Shape>(key_tile, row_source(in, in.k, place), place.first);
  copy_rows<Shape>(value_tile, row_source(in, in.v, place), place.first);
  std::uint32_t tile = value_tile + Shape::rows_bytes, other = tile + Step::bytes;
  Step::template copy<scores>(tile, query_rows, dout_rows, statistics, 0);

  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  const int warp_row = place.first + static_cast<int>(threadIdx.x) / 32 * Shape::warp_rows;
  StationaryRows<Shape> keys(key_tile), values(value_tile);
  const auto draws = weight_draws<scores, true, Shape::row_tiles>(in.rule, in.sequences.sample, place.sequence,
                                                                  place.head, warp_row);
  typename Shape::Outputs dk, dv;
  clear_outputs<Shape>(dk);
  clear_outputs<Shape>(dv);
  for (int query = 0; query < place.length; query += Shape::columns) {
    wait_copies();
    __syncthreads();
    if (query + Shape::columns < place.length)
      Step::template copy<scores>(other, query_rows, dout_rows, statistics, query + Shape::columns);
    if (query == 0) {
      keys.keep();
      values.keep();
    }
    const auto visit = [&](int c, auto) {
      const std::uint32_t chunk = tile + c * Shape::chunk * Shape::row_bytes;
      typename Shape::Products s, slopes;
      multiply<Shape>(s, keys, chunk, column_lane);
      multiply<Shape>(slopes, values, chunk + Shape::tile_bytes, column_lane);
      typename Shape::Weights weights, packed_slopes;
      if constexpr (scores == Scores::bernoulli)
        differentiate_collisions<Shape>(in.rule, s, slopes, weights, packed_slopes);
      else
        differentiate<scores, Shape>(
            in.rule, draws, query + c * Shape::chunk,
            tile + 2 * Shape::tile_bytes + c * Shape::chunk * static_cast<int>(sizeof(QueryStatistics)), s,
            slopes, weights, packed_slopes);
      accumulate<Shape>(dv, weights, chunk + Shape::tile_bytes, row_lane, place.slice);
      accumulate<Shape>(dk, packed_slopes, chunk, row_lane, place.slice);
    };
    if (warp_row < place.length) visit_chunks<Shape>(place.length - query, visit);
    const std::uint32_t next = other;
    other = tile;
    tile = next;
  }
  float key_factor[Shape::row_tiles][2], value_factor[Shape::row_tiles][2];
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
    key_factor[i / 2][i % 2] = in.rule.scale * in.rule.keep_scale;
    value_factor[i / 2][i % 2] = in.rule.keep_scale;
  }
  store_rows<Shape>(dk, key_factor, place, arguments.dk);
  store_rows<Shape>(dv, value_factor, place, arguments.dv);
}

template <Scores scores, class Shape>
void launch(Cuda& cuda, const AttentionTask& task, const QueryStatistics* statistics,
            Heads<const bfloat16> dout, Heads<bfloat16> dk, Heads<bfloat16> dv) {
  KeyGradientArguments arguments{attention_arguments<Shape>(task), dout, dk, dv, statistics};
  arguments.common.by_packs = arguments.common.by_packs && has_packs(dout);
  constexpr int memory = 2 * Shape::rows_bytes + 2 * QueryTile<Shape>::bytes;
  launch_attention<Shape>(cuda, key_gradient<scores, Shape>, arguments, memory, "attention key gradient");
}

}  // namespace

void launch_key_gradient(Cuda& cuda, const AttentionTask& task, const QueryStatistics* statistics,
                         Heads<const bfloat16> dout, Heads<bfloat16> dk, Heads<bfloat16> dv) {
  with_scores(task.scores, [&]<Scores scores>(std::integral_constant<Scores, scores>) {
    const int width = task.in.q.width;
    if (width <= 32)
      launch<scores, AttentionShape<32, 2, 1, 4, 64, scores == Scores::dropped_softmax ? 3 : 2>>(
          cuda, task, statistics, dout, dk, dv);
    else if (width <= 64)
      launch<scores, AttentionShape<64, 2, 2, 4, 32, 2, false>>(cuda, task, statistics, dout, dk, dv);
    else if (width <= 128)
      launch<scores, AttentionShape<128, 1, 2, 4, 32, 2, false>>(cuda, task, statistics, dout, dk, dv);
    else
      launch<scores, AttentionShape<256, 1, 2, 2, 32, 1, false>>(cuda, task, statistics, dout, dk, dv);
  });
}

}  // namespace tern::kernels
