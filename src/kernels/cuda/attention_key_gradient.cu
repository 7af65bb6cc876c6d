// Gradients of the keys and values of bfloat16 attention on tensor cores (compute capability 8.0 and later): 8
// width flops a score. Deterministic: each key belongs to one warp, which visits the queries in order. Products
// are transposed, so that weights and dS are operands without exchange.
//
//   softmax     dv = dropped P^T dout, dk = scale dS^T q, dS = P * (dropped dout v^T - delta)
//   bernoulli   dv = P^T dout, dk = dS^T q, dS = (dout v^T) * slope(q k^T)
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_key_steps.cuh"
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
        differentiate_transposed<scores, Shape>(
            in.rule, draws, query + c * Shape::chunk,
            tile + 2 * Shape::tile_bytes + c * Shape::chunk * static_cast<int>(sizeof(QueryStatistics)), s,
            slopes, weights, packed_slopes);
      accumulate<Shape>(dv, weights, chunk + Shape::tile_bytes, row_lane, place.slice);
      accumulate<Shape>(dk, packed_slopes, chunk, row_lane, place.slice);
    };
    if (warp_row < place.length) visit_chunks<Shape>(place.length - query, true, visit);
    swap(tile, other);
  }
  finish_keys<Shape>(in.rule, dk, dv, place, arguments.dk, arguments.dv);
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
      launch<scores, AttentionShape<32, 2, 1, 4, 128, 2>>(cuda, task, statistics, dout, dk, dv);
    else if (width <= 64)
      launch<scores, AttentionShape<64, 2, 2, 4, 32, 2, false>>(cuda, task, statistics, dout, dk, dv);
    else if (width <= 128)
      launch<scores, AttentionShape<128, 1, 2, 4, 32, 2, false>>(cuda, task, statistics, dout, dk, dv);
    else
      launch<scores, AttentionShape<256, 1, 2, 2, 32, 1, false>>(cuda, task, statistics, dout, dk, dv);
  });
}

}  // namespace tern::kernels
