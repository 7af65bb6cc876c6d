// All gradients of bfloat16 attention in one pass over the scores (compute capability 8.0 and later, widths up
// to 64): 10 width flops a score. Gradients of keys and values are deterministic; those of queries are added up
// atomically in float32 and rounded at the end. Formulas as in attention_key_gradient.cu.
//
// Keys are rows of the products and stay with their warps. The slopes dS of a tile go through shared memory,
// where every warp picks up 16 queries' slopes of all keys while the next tile's work begins.
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_key_steps.cuh"
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {
namespace {

struct AllGradientsArguments {
  AttentionArguments common;
  Heads<const bfloat16> dout, out;
  Heads<bfloat16> dq, dk, dv;
  const float* lse;             ///< null for scores without a sum
  QueryStatistics* statistics;  ///< [heads, tokens]
  float* sums;                  ///< [tokens, heads, padded width] of dq before its factor
  bool out_by_packs, dq_by_packs;
};

/// Clears the sums, and writes the statistics. One lane for eight columns.
template <int width>
__global__ void __launch_bounds__(256)
    begin_gradients(const __grid_constant__ AllGradientsArguments arguments) {
  constexpr int lanes = width / 8;
  const Heads<const bfloat16>&dout = arguments.dout, &out = arguments.out;
  const std::int64_t item = thread_index(), row = item / lanes;
  const std::int64_t tokens = arguments.common.sequences.tokens, heads = arguments.common.q.heads;
  const bool exists = row < tokens * heads;
  const std::int64_t token = row / heads;
  const int head = static_cast<int>(row % heads), column = static_cast<int>(item % lanes) * 8;
  if (exists) {
    store_pack(arguments.sums + 8 * item, Pack<float, 4>{});
    store_pack(arguments.sums + 8 * item + 4, Pack<float, 4>{});
  }
  if (arguments.lse == nullptr) return;
  float sum = 0;
  if (exists && column < out.width) {
    const bfloat16 *a = row_of(dout, token, head) + column, *b = row_of(out, token, head) + column;
    if (arguments.out_by_packs && column + 8 <= out.width) {
      const auto x = load_pack<8>(a), y = load_pack<8>(b);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(to_accumulate(x.item[i]), to_accumulate(y.item[i]), sum);
    } else {
      for (int i = 0; i < min(8, out.width - column); ++i)
        sum = fmaf(to_accumulate(a[i]), to_accumulate(b[i]), sum);
    }
  }
  sum = warp_sum(sum, lanes);
  if (exists && column == 0)
    arguments.statistics[head * tokens + token] = {arguments.lse[head * tokens + token] * 1.4426950408889634f,
                                                   sum / arguments.common.rule.keep_scale};
}

/// dq = scale * sums, in bfloat16.
template <int width>
__global__ void __launch_bounds__(256) end_gradients(const __grid_constant__ AllGradientsArguments arguments) {
  constexpr int lanes = width / 8;
  const Heads<bfloat16>& dq = arguments.dq;
  const std::int64_t item = thread_index(), row = item / lanes;
  const int column = static_cast<int>(item % lanes) * 8;
  if (row >= arguments.common.sequences.tokens * dq.heads || column >= dq.width) return;
  const float factor = arguments.common.rule.scale * arguments.common.rule.keep_scale;
  const auto low = load_pack<4>(arguments.sums + 8 * item), high = load_pack<4>(arguments.sums + 8 * item + 4);
  Pack<bfloat16, 8> pack;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    pack.item[i] = from_accumulate<bfloat16>(factor * (i < 4 ? low.item[i % 4] : high.item[i % 4]));
  bfloat16* target = row_of(dq, row / dq.heads, static_cast<int>(row % dq.heads)) + column;
  if (arguments.dq_by_packs && column + 8 <= dq.width) {
    store_pack(target, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (column + i < dq.width) target[i] = pack.item[i];
}

/// dS of a tile, [keys, queries] in the keys' order of block_row().
template <class Shape>
struct SlopeTile {
  using Layout = TileLayout<Shape::columns>;
  static constexpr int bytes = Shape::rows * Layout::row_bytes;
  static_assert(Shape::columns == 16 * Shape::warps);

  static __device__ __forceinline__ void store(std::uint32_t tile, int c,
                                               const typename Shape::Weights& slopes) {
    const std::uint32_t rows = tile + threadIdx.x / 32 * Shape::warp_rows * Layout::row_bytes;
#pragma unroll
    for (int u = 0; u < Shape::blocks16; ++u)
      store_fragment<Shape::columns>(rows + Shape::row_tile(u) * 16 * Layout::row_bytes,
                                     c * Shape::groups + Shape::group(u), slopes[u]);
  }

  /// Adds dS^T k of this warp's 16 queries to `sums`, where the tile's first query begins.
  static __device__ __forceinline__ void reduce(std::uint32_t tile, std::uint32_t keys, int key_rows,
                                                int queries, float* sums, std::int64_t stride) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (16 * warp >= queries) return;
    const std::uint32_t slope_lane = tile + (Layout::column_lane() ^ warp << 5);
    const std::uint32_t key_lane = TileLayout<Shape::width>::row_lane();
    float sum[Shape::width / 16][2][4];
    clear(sum);
    const auto add = [&](int k) {
      const Fragment a = load_transposed_fragment(slope_lane + k * 16 * Layout::row_bytes);
#pragma unroll
      for (int n = 0; n < Shape::width / 16; ++n) {
        const Fragment b = load_transposed_fragment(keys + k * 16 * Shape::row_bytes + (key_lane ^ n << 5));
        multiply_add(sum[n][0], a, b.word[0], b.word[1]);
        multiply_add(sum[n][1], a, b.word[2], b.word[3]);
      }
    };
    if (key_rows >= Shape::rows) {
#pragma unroll
      for (int k = 0; k < Shape::rows / 16; ++k) add(k);
    } else {
#pragma unroll 1
      for (int k = 0; k < (key_rows + Shape::warp_rows - 1) / Shape::warp_rows * Shape::row_tiles; ++k) add(k);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = 16 * warp + 8 * half + lane / 4;
      if (query >= queries) continue;
#pragma unroll
      for (int i = 0; i < Shape::width / 8; ++i)
        add_pair(sums + query * stride + 8 * i + 2 * (lane % 4), sum[i / 2][i % 2][2 * half],
                 sum[i / 2][i % 2][2 * half + 1]);
    }
  }
};

/// Slopes of keys beyond the sequence are no numbers to multiply zeros with.
template <class Shape>
__device__ __forceinline__ void clear_rows_beyond(int rows, typename Shape::Weights& slopes) {
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (block_row<Shape>(Shape::row_tile(u), i % 2) >= rows) slopes[u].word[i] = 0;
  }
}

template <Scores scores, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    all_gradients(const __grid_constant__ AllGradientsArguments arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ PlaceScratch place_scratch;
  const AttentionArguments& in = arguments.common;
  const AttentionPlace place =
      find_place<Shape::rows, Shape::threads>(in.sequences, in.q.heads, 1, in.slots, place_scratch);
  if (place.sequence < 0) {
    clear_rows<Shape::rows, Shape::threads>(place, arguments.dk);
    clear_rows<Shape::rows, Shape::threads>(place, arguments.dv);
    return;
  }
  using Step = QueryTile<Shape>;
  using Slopes = SlopeTile<Shape>;
  const RowSource query_rows = row_source(in, in.q, place), dout_rows = row_source(in, arguments.dout, place);
  const QueryStatistics* statistics = arguments.statistics + place.head * in.sequences.tokens + place.begin;
  const std::uint32_t key_tile = shared_address_of(memory), value_tile = key_tile + Shape::rows_bytes;
  copy_rows<Shape>(key_tile, row_source(in, in.k, place), place.first);
  copy_rows<Shape>(value_tile, row_source(in, in.v, place), place.first);
  std::uint32_t slope_tile = value_tile + Shape::rows_bytes, other_slopes = slope_tile + Slopes::bytes;
  std::uint32_t tile = other_slopes + Slopes::bytes, other = tile + Step::bytes;
  Step::template copy<scores>(tile, query_rows, dout_rows, statistics, 0);

  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  const int warp_row = place.first + static_cast<int>(threadIdx.x) / 32 * Shape::warp_rows;
  const int key_rows = place.length - place.first;
  StationaryRows<Shape> keys(key_tile), values(value_tile);
  const auto draws = weight_draws<scores, true, Shape::row_tiles>(in.rule, in.sequences.sample, place.sequence,
                                                                  place.head, warp_row);
  const std::int64_t stride = static_cast<std::int64_t>(in.q.heads) * Shape::width;
  float* sums = arguments.sums + place.begin * stride + place.head * Shape::width;
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
    } else {
      Slopes::reduce(other_slopes, key_tile, key_rows, Shape::columns, sums + (query - Shape::columns) * stride,
                     stride);
    }
    const auto visit = [&](int c, auto left) {
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
      if constexpr (std::is_same_v<decltype(left), int>) clear_rows_beyond<Shape>(key_rows, packed_slopes);
      Slopes::store(slope_tile, c, packed_slopes);
      accumulate<Shape>(dv, weights, chunk + Shape::tile_bytes, row_lane, 0);
      accumulate<Shape>(dk, packed_slopes, chunk, row_lane, 0);
    };
    if (warp_row < place.length) visit_chunks<Shape>(place.length - query, key_rows >= Shape::rows, visit);
    swap(tile, other);
    swap(slope_tile, other_slopes);
  }
  __syncthreads();
  const int last = (place.length - 1) / Shape::columns * Shape::columns;
  Slopes::reduce(other_slopes, key_tile, key_rows, place.length - last, sums + last * stride, stride);
  finish_keys<Shape>(in.rule, dk, dv, place, arguments.dk, arguments.dv);
}

template <Scores scores, class Shape>
void launch(Cuda& cuda, AllGradientsArguments arguments, const AttentionTask& task) {
  if (arguments.common.sequences.tokens == 0 || arguments.common.q.heads == 0) return;
  const bool by_packs = arguments.common.by_packs;
  const std::int64_t rows = task.sequences.tokens * task.in.q.heads, lanes = Shape::width / 8;
  Scratch<float> sums(cuda, rows * Shape::width);
  Scratch<QueryStatistics> statistics(cuda, rows);
  arguments.common = attention_arguments<Shape>(task);
  arguments.common.by_packs = arguments.common.by_packs && by_packs;
  arguments.sums = sums.data();
  arguments.statistics = statistics.data();
  const auto blocks = static_cast<unsigned>((rows * lanes + 255) / 256);
  begin_gradients<Shape::width><<<blocks, 256, 0, cuda.stream>>>(arguments);
  check_launch("attention begin gradients");
  constexpr int memory = 2 * Shape::rows_bytes + 2 * QueryTile<Shape>::bytes + 2 * SlopeTile<Shape>::bytes;
  launch_attention<Shape>(cuda, all_gradients<scores, Shape>, arguments, memory, "attention gradients");
  end_gradients<Shape::width><<<blocks, 256, 0, cuda.stream>>>(arguments);
  check_launch("attention end gradients");
}

}  // namespace

bool serves_all_gradients(const Cuda& cuda, const AttentionTask& task) {
  return !cuda.options.deterministic && task.in.q.width <= 64;
}

void launch_all_gradients(Cuda& cuda, const AttentionTask& task, const SoftmaxResult<bfloat16>& result,
                          Heads<const bfloat16> dout, const AttentionGradients<bfloat16>& gradients) {
  AllGradientsArguments arguments{};
  arguments.common.sequences = task.sequences;
  arguments.common.q = task.in.q;
  arguments.common.by_packs = has_packs(dout);
  arguments.dout = dout;
  arguments.out = result.out;
  arguments.dq = gradients.dq;
  arguments.dk = gradients.dk;
  arguments.dv = gradients.dv;
  arguments.lse = result.lse;
  arguments.out_by_packs = has_packs(dout) && has_packs(result.out);
  arguments.dq_by_packs = has_packs(gradients.dq);
  with_scores(task.scores, [&]<Scores scores>(std::integral_constant<Scores, scores>) {
    if (task.in.q.width <= 32)
      launch<scores, AttentionShape<32, 2, 1, 4, 64, 3>>(cuda, arguments, task);
    else
      launch<scores, AttentionShape<64, 2, 2, 4, 64, 2, false>>(cuda, arguments, task);
  });
}

}  // namespace tern::kernels
