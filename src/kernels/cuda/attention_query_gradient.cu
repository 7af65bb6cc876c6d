// Gradient of the queries of bfloat16 attention on tensor cores (compute capability 8.0 and later): 6 width
// flops a score; also the statistics that the gradients of keys and values need. Deterministic: each row
// belongs to one warp, which visits the keys in order.
//
//   softmax     delta = dout . out, dS = P * (dropped dout v^T - delta), dq = scale dS k
//               (the scale of kept weights is applied to dq, and its inverse to delta)
//   bernoulli   dS = (dout v^T) * slope(q k^T), dq = dS k
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {
namespace {

struct QueryGradientArguments {
  AttentionArguments common;
  Heads<const bfloat16> dout, out;
  Heads<bfloat16> dq;
  const float* lse;
  QueryStatistics* statistics;
};

/// shift and delta of this lane's rows; both are written for the gradients of keys and values.
template <class Shape>
struct QueryRows {
  float shift[Shape::row_tiles][2], delta[Shape::row_tiles][2];

  __device__ __forceinline__ void load(const QueryGradientArguments& arguments, const AttentionPlace& place) {
#pragma unroll
    for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
      const int m = i / 2, half = i % 2, row = place.first + block_row<Shape>(m, half);
      float sum = 0, lse = 0;
      const std::int64_t token = place.begin + row;
      const std::int64_t place_of_row = place.head * arguments.common.sequences.tokens + token;
      if (row < place.length) {
        lse = arguments.lse[place_of_row];
        const bfloat16 *dout = row_of(arguments.dout, token, place.head),
                       *out = row_of(arguments.out, token, place.head);
        for (int c = 2 * (static_cast<int>(threadIdx.x) % 4); c < arguments.out.width; c += 8)
          for (int j = c; j < min(c + 2, arguments.out.width); ++j)
            sum = fmaf(to_accumulate(dout[j]), to_accumulate(out[j]), sum);
      }
      shift[m][half] = lse * 1.4426950408889634f;
      delta[m][half] = row_sum(sum) / arguments.common.rule.keep_scale;
      if (threadIdx.x % 4 == 0 && row < place.length && place.slice == 0)
        arguments.statistics[place_of_row] = {shift[m][half], delta[m][half]};
    }
  }
};

/// From products s = q k^T and slopes = dout v^T of a chunk to its packed dS.
template <Scores scores, class Shape, class Draws>
__device__ __forceinline__ void differentiate(const ScoreRule& rule, const Draws& draws, int key, int keys_left,
                                              const QueryRows<Shape>& rows, typename Shape::Products& s,
                                              typename Shape::Products& slopes,
                                              typename Shape::Weights& weights) {
  if constexpr (scores == Scores::bernoulli)
    collision_slopes(reinterpret_cast<typename Shape::FlatProducts&>(s),
                     reinterpret_cast<typename Shape::FlatProducts&>(slopes), rule);
  KeptBits kept[Shape::row_tiles];
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) {
    const int m = Shape::row_tile(u);
    if (scores == Scores::dropped_softmax && m == 0) draws.draw(rule, key + 16 * Shape::group(u), kept);
    if constexpr (scores != Scores::bernoulli) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& slope = slopes[u][i / 4][i % 4];
        const float delta = rows.delta[m][i % 4 / 2];
        const float p = power_of_two(fmaf(rule.exponent_scale, s[u][i / 4][i % 4], -rows.shift[m][i % 4 / 2]));
        if constexpr (scores == Scores::softmax) {
          slope = p * (slope - delta);
        } else {
          float sum = -p * delta;
          if (Draws::is_kept(kept[m], i)) sum = fmaf(p, slope, sum);
          slope = sum;
        }
      }
      if (keys_left < Shape::chunk) clear_keys<Shape>(u, keys_left, slopes[u]);
    }
    weights[u] = pack_fragment(slopes[u]);
  }
}

template <Scores scores, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    query_gradient(const __grid_constant__ QueryGradientArguments arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ PlaceScratch place_scratch;
  const AttentionArguments& in = arguments.common;
  const AttentionPlace place =
      find_place<Shape::rows, Shape::threads>(in.sequences, in.q.heads, Shape::slices, in.slots, place_scratch);
  if (place.sequence < 0) return clear_rows<Shape::rows, Shape::threads>(place, arguments.dq);
  const RowSource keys = key_source(in, in.k, place), values = key_source(in, in.v, place);
  const std::uint32_t query_tile = shared_address_of(memory), dout_tile = query_tile + Shape::rows_bytes,
                      tiles = dout_tile + Shape::rows_bytes;
  copy_rows<Shape>(query_tile, row_source(in, in.q, place), place.first);
  copy_rows<Shape>(dout_tile, row_source(in, arguments.dout, place), place.first);
  copy_columns<Shape>(tiles, keys, 0);
  copy_columns<Shape>(tiles + Shape::tile_bytes, values, 0);

  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  const int warp_row = place.first + static_cast<int>(threadIdx.x) / 32 * Shape::warp_rows;
  StationaryRows<Shape> queries(query_tile), douts(dout_tile);
  QueryRows<Shape> rows;
  if constexpr (scores != Scores::bernoulli) rows.load(arguments, place);
  const auto draws = weight_draws<scores, false, Shape::row_tiles>(in.rule, in.sequences.sample, place.sequence,
                                                                   place.head, warp_row);
  typename Shape::Outputs dq;
  clear_outputs<Shape>(dq);
  std::uint32_t tile = tiles, other = tiles + 2 * Shape::tile_bytes;
  for (int key = 0; key < keys.valid; key += Shape::columns) {
    wait_copies();
    __syncthreads();
    if (key + Shape::columns < keys.valid) {
      copy_columns<Shape>(other, keys, key + Shape::columns);
      copy_columns<Shape>(other + Shape::tile_bytes, values, key + Shape::columns);
    }
    if (key == 0) {
      queries.keep();
      douts.keep();
    }
    const auto visit = [&](int c, auto keys_left) {
      const std::uint32_t chunk = tile + c * Shape::chunk * Shape::row_bytes;
      typename Shape::Products s, slopes;
      multiply<Shape>(s, queries, chunk, column_lane);
      multiply<Shape>(slopes, douts, chunk + Shape::tile_bytes, column_lane);
      typename Shape::Weights weights;
      differentiate<scores, Shape>(in.rule, draws, key + c * Shape::chunk, keys_left, rows, s, slopes, weights);
      accumulate<Shape>(dq, weights, chunk, row_lane, place.slice);
    };
    if (warp_row < place.length) visit_chunks<Shape>(keys.valid - key, visit);
    const std::uint32_t next = other;
    other = tile;
    tile = next;
  }
  float factor[Shape::row_tiles][2];
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) factor[i / 2][i % 2] = in.rule.scale * in.rule.keep_scale;
  store_rows<Shape>(dq, factor, place, arguments.dq);
}

template <Scores scores, class Shape>
void launch(Cuda& cuda, const AttentionTask& task, const SoftmaxResult<bfloat16>& result,
            Heads<const bfloat16> dout, Heads<bfloat16> dq, QueryStatistics* statistics) {
  QueryGradientArguments arguments{
      attention_arguments<Shape>(task), dout, result.out, dq, result.lse, statistics};
  arguments.common.by_packs = arguments.common.by_packs && has_packs(dout);
  constexpr int memory = 2 * Shape::rows_bytes + 4 * Shape::tile_bytes;
  launch_attention<Shape>(cuda, query_gradient<scores, Shape>, arguments, memory, "attention query gradient");
}

}  // namespace

void launch_query_gradient(Cuda& cuda, const AttentionTask& task, const SoftmaxResult<bfloat16>& result,
                           Heads<const bfloat16> dout, Heads<bfloat16> dq, QueryStatistics* statistics) {
  with_scores(task.scores, [&]<Scores scores>(std::integral_constant<Scores, scores>) {
    const int width = task.in.q.width;
    if (width <= 32)
      launch<scores, AttentionShape<32, 2, 1, 4, 128, 3>>(cuda, task, result, dout, dq, statistics);
    else if (width <= 64)
      launch<scores, AttentionShape<64, 2, 1, 4, 64, 2>>(cuda, task, result, dout, dq, statistics);
    else if (width <= 128)
      launch<scores, AttentionShape<128, 1, 2, 4, 32, 2, false>>(cuda, task, result, dout, dq, statistics);
    else
      launch<scores, AttentionShape<256, 1, 2, 2, 32, 1, false>>(cuda, task, result, dout, dq, statistics);
  });
}

}  // namespace tern::kernels
