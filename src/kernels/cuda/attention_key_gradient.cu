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
  float *key_sums = nullptr,
        *value_sums = nullptr;  ///< of keys in rows of their own, [pieces, heads, keys, width]
  int pieces = 1;               ///< of query_piece queries in the longest sequence
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

/// Queries whose shares of the gradients of keys in rows of their own one block adds up, where there are more
/// than one piece of them.
constexpr int query_piece = 4096;
/// Pieces of a sequence are numbered from here on, without gaps that matter.
TERN_HOST_DEVICE constexpr std::int64_t first_piece(std::int64_t begin, std::int64_t sequence) {
  return begin / query_piece + sequence;
}

/// A block's keys, and the queries that pass by.
struct KeyPlace {
  AttentionPlace keys, queries;
  std::int64_t sums = 0;  ///< of keys in rows of their own: where theirs go, in matrices
};

/// The place of block blockIdx.x = ((rank * pieces + piece) * tiles + tile) * heads + head of keys in rows of
/// their own. A piece without queries has no sequence, but for the first one.
template <class Shape>
__device__ __forceinline__ KeyPlace find_projected(const KeyGradientArguments& arguments) {
  const AttentionArguments& in = arguments.common;
  const int block = static_cast<int>(blockIdx.x), count = in.keys.count, heads = in.q.heads;
  const int slice = block % Shape::slices, head = block / Shape::slices % heads,
            part = block / Shape::slices / heads, tiles = (count + Shape::rows - 1) / Shape::rows;
  const int piece = part / tiles % arguments.pieces,
            sequence = in.sequences.order[part / tiles / arguments.pieces];
  const int begin = in.sequences.offsets[sequence], length = in.sequences.offsets[sequence + 1] - begin,
            first = piece * query_piece;
  return {.keys = {.sequence = piece > 0 && first >= length ? -1 : sequence,
                   .begin = sequence * count,
                   .length = in.keys.used(length),
                   .first = part % tiles * Shape::rows,
                   .head = head,
                   .slice = slice},
          .queries = {.sequence = sequence,
                      .begin = begin + first,
                      .length = arguments.pieces > 1 ? min(length - first, query_piece) : length,
                      .first = 0,
                      .head = head,
                      .slice = slice},
          .sums = (arguments.pieces > 1 ? first_piece(begin, sequence) + piece : sequence) * heads + head};
}

/// Writes sums times `factor` for the rows of a place below `count`; zeros behind the keys that are used.
template <class Shape>
__device__ __forceinline__ void store_sums(const typename Shape::Outputs& x, float factor,
                                           const AttentionPlace& place, int count, int width, float* to) {
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
    const int m = i / 2, half = i % 2, row = place.first + block_row<Shape>(m, half);
    if (row >= count) continue;
    const float scale = row < place.length ? factor : 0.0f;
#pragma unroll
    for (int n = 0; n < Shape::outputs / 8; ++n) {
      const int column = place.slice * Shape::outputs + 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4);
      if (column < width) to[std::int64_t{row} * width + column] = x[m][n][2 * half] * scale;
      if (column + 1 < width) to[std::int64_t{row} * width + column + 1] = x[m][n][2 * half + 1] * scale;
    }
  }
}

template <Scores scores, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    key_gradient(const __grid_constant__ KeyGradientArguments arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ PlaceScratch place_scratch;
  const AttentionArguments& in = arguments.common;
  const bool is_projected = in.keys.count > 0;
  KeyPlace places;
  if (is_projected)
    places = find_projected<Shape>(arguments);
  else
    places.keys = places.queries = find_place<Shape::rows, Shape::threads>(
        in.sequences, in.q.heads, Shape::slices, in.slots, place_scratch);
  const AttentionPlace &place = places.keys, &queries = places.queries;
  if (place.sequence < 0) {
    if (is_projected) return;
    clear_rows<Shape::rows, Shape::threads>(place, arguments.dk);
    clear_rows<Shape::rows, Shape::threads>(place, arguments.dv);
    return;
  }
  using Step = QueryTile<Shape>;
  const RowSource query_rows = row_source(in, in.q, queries),
                  dout_rows = row_source(in, arguments.dout, queries);
  const QueryStatistics* statistics = arguments.statistics + place.head * in.sequences.tokens + queries.begin;
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
  for (int query = 0; query < queries.length; query += Shape::columns) {
    wait_copies();
    __syncthreads();
    if (query + Shape::columns < queries.length)
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
    if (warp_row < place.length) visit_chunks<Shape>(queries.length - query, visit);
    const std::uint32_t next = other;
    other = tile;
    tile = next;
  }
  if (is_projected) {
    const std::int64_t at = places.sums * in.keys.count * in.q.width;
    store_sums<Shape>(dk, in.rule.scale, place, in.keys.count, in.q.width, arguments.key_sums + at);
    store_sums<Shape>(dv, 1, place, in.keys.count, in.q.width, arguments.value_sums + at);
    return;
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
void launch(Cuda& cuda, const AttentionTask& task, KeyGradientArguments arguments) {
  arguments.common = attention_arguments<Shape>(task);
  arguments.common.by_packs = arguments.common.by_packs && has_packs(arguments.dout);
  if (task.keys.count > 0)
    arguments.common.slots =
        task.sequences.count * arguments.pieces * ((task.keys.count + Shape::rows - 1) / Shape::rows);
  constexpr int memory = 2 * Shape::rows_bytes + 2 * QueryTile<Shape>::bytes;
  launch_attention<Shape>(cuda, key_gradient<scores, Shape>, arguments, memory, "attention key gradient");
}

template <Scores scores>
void launch(Cuda& cuda, const AttentionTask& task, const KeyGradientArguments& arguments) {
  const int width = task.in.q.width;
  if (width <= 32)
    launch<scores, AttentionShape<32, 2, 1, 4, 64, scores == Scores::dropped_softmax ? 3 : 2>>(cuda, task,
                                                                                               arguments);
  else if (width <= 64)
    launch<scores, AttentionShape<64, 2, 2, 4, 32, 2, false>>(cuda, task, arguments);
  else if (width <= 128)
    launch<scores, AttentionShape<128, 1, 2, 4, 32, 2, false>>(cuda, task, arguments);
  else
    launch<scores, AttentionShape<256, 1, 2, 2, 32, 1, false>>(cuda, task, arguments);
}

/// out[s, h] = the pieces of sequence s, in order; both are matrices of `size` entries for each head.
__global__ void add_pieces(Sequences sequences, const float* pieces, int heads, std::int64_t size, float* out) {
  const std::int64_t row = heads * size;
  for (std::int64_t i = thread_index(); i < sequences.count * row; i += grid_threads()) {
    const SequenceRange range = sequence_range(sequences, static_cast<int>(i / row));
    const float* from = pieces + first_piece(range.begin, range.index) * row + i % row;
    float sum = from[0];
    for (int piece = 1; piece * query_piece < range.length; ++piece) sum += from[piece * row];
    out[i] = sum;
  }
}

}  // namespace

void launch_key_gradient(Cuda& cuda, const AttentionTask& task, const QueryStatistics* statistics,
                         Heads<const bfloat16> dout, Heads<bfloat16> dk, Heads<bfloat16> dv) {
  KeyGradientArguments arguments{};
  arguments.dout = dout;
  arguments.dk = dk;
  arguments.dv = dv;
  arguments.statistics = statistics;
  with_scores(task.scores, [&]<Scores scores>(std::integral_constant<Scores, scores>) {
    launch<scores>(cuda, task, arguments);
  });
}

void launch_key_gradient(Cuda& cuda, const AttentionTask& task, const QueryStatistics* statistics,
                         Heads<const bfloat16> dout, float* dk, float* dv) {
  const Sequences& sequences = task.sequences;
  const int heads = task.in.q.heads;
  const std::int64_t size = std::int64_t{task.keys.count} * task.in.q.width;
  KeyGradientArguments arguments{};
  arguments.dout = dout;
  arguments.statistics = statistics;
  arguments.key_sums = dk;
  arguments.value_sums = dv;
  if (sequences.longest <= query_piece) return launch<Scores::softmax>(cuda, task, arguments);
  arguments.pieces = static_cast<int>((sequences.longest + query_piece - 1) / query_piece);
  const std::int64_t sums = first_piece(sequences.tokens, sequences.count + 1) * heads * size;
  const Scratch<float> scratch(cuda, 2 * sums);
  arguments.key_sums = scratch.data();
  arguments.value_sums = scratch.data() + sums;
  launch<Scores::softmax>(cuda, task, arguments);
  const unsigned blocks = grid_for(cuda, sequences.count * heads * size, 256);
  add_pieces<<<blocks, 256, 0, cuda.stream>>>(sequences, arguments.key_sums, heads, size, dk);
  add_pieces<<<blocks, 256, 0, cuda.stream>>>(sequences, arguments.value_sums, heads, size, dv);
  check_launch("attention key gradient: pieces");
}

}  // namespace tern::kernels
