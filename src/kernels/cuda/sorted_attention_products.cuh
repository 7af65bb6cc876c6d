// Attention along a sort in bfloat16 on tensor cores (compute capability 8.0 and later), from the parts of
// exact attention (attention_products.cuh): a block's 64 resident rows stay in fragments, tiles of 64 rows are
// gathered past them. The factor of a pair is a summand of its score, so that a weight is one power of two.
#pragma once

#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/row_statistics.cuh"
#include "kernels/cuda/sorted_attention_stream.cuh"

namespace tern::kernels {
namespace {

/// Visits a lane's pairs of neighbouring sums that exist: visit(row of the tile, column of the head, first,
/// second, whether the second exists).
template <class Shape, class Visit>
__device__ __forceinline__ void for_each_pair(typename Shape::Outputs& sums, int count, int column, int width,
                                              const Visit& visit) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = block_row<Shape>(0, half);
    if (row >= count) continue;
#pragma unroll
    for (int n = 0; n < Shape::outputs / 8; ++n)
      if (const int at = column + 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4); at < width)
        visit(row, at, sums[0][n][2 * half], sums[0][n][2 * half + 1], at + 1 < width);
  }
}
/// Two neighbours in rows of `width` values.
__device__ __forceinline__ void load_neighbours(const float* from, int width, bool both, float& a, float& b) {
  if (width % 2 == 0) {
    const Pack<float, 2> pair = load_pack<2>(from);
    a = pair.item[0], b = pair.item[1];
  } else {
    a = from[0], b = both ? from[1] : 0.0f;
  }
}
__device__ __forceinline__ void store_neighbours(float* to, int width, bool both, float a, float b) {
  if (width % 2 == 0) {
    store_pack(to, Pack<float, 2>{a, b});
  } else {
    to[0] = a;
    if (both) to[1] = b;
  }
}

template <class Shape>
struct SortedProducts {
  static_assert(Shape::row_tiles == 1 && Shape::rows == Shape::columns);
  static constexpr int rows = Shape::rows, columns = Shape::outputs;
  static constexpr int threads = Shape::threads, blocks = Shape::blocks, stages = sorted_stages<Shape>;
  static constexpr int query_blocks = blocks + 1;  ///< where only dq is added up

  static std::size_t forward_bytes(int rounds) {
    return Shape::rows_bytes + stages * 2 * Shape::tile_bytes + token_bytes(rounds);
  }
  template <bool keys_resident>
  static std::size_t backward_bytes(int rounds) {
    return 2 * (Shape::rows_bytes + stages * Shape::tile_bytes) + stages * 3 * rows * sizeof(float) +
           token_bytes(rounds);
  }

  /// Adds a round's share of the weighted values of a tile of queries.
  static __device__ __forceinline__ void attend(const SortedPass<bfloat16>& pass,
                                                const SortedState<float>& state, SortedRound<bfloat16>& round,
                                                const SortedPlace& place, std::byte* shared) {
    const std::uint32_t query_tile = shared_address_of(shared), tiles = query_tile + Shape::rows_bytes;
    int* const ints = reinterpret_cast<int*>(shared + Shape::rows_bytes + stages * 2 * Shape::tile_bytes);
    TileTokens queries(ints, rows);
    round.load_queries(place.first, place.last, queries);
    __syncthreads();
    gather_tile<Shape>(query_tile, pass.in.q, queries, place.head, pass.packed);
    using Layout = TileLayout<Shape::width>;
    const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
    StationaryRows<Shape> query_rows(query_tile);
    bool is_kept = false;
    typename Shape::Outputs out;
    RowStatistics<Shape> statistics;
    load_state(pass, state, queries, place, out, statistics);
    const auto enqueue = [&](const TileTokens& keys, int stage) {
      const std::uint32_t tile = tiles + stage * 2 * Shape::tile_bytes;
      gather_tile<Shape>(tile, pass.in.k, keys, place.head, pass.packed);
      gather_tile<Shape>(tile + Shape::tile_bytes, pass.in.v, keys, place.head, pass.packed);
    };
    const auto multiply_tile = [&](const TileTokens& keys, int stage) {
      if (!is_kept) query_rows.keep();
      is_kept = true;
      if (block_row<Shape>(0, 0) / 16 * 16 >= queries.count) return;
      const SortedScores<Shape, false> scores(round, queries, keys);
#pragma unroll 1
      for (int c = 0; c * Shape::chunk < keys.count; ++c) {
        const std::uint32_t chunk = tiles + stage * 2 * Shape::tile_bytes + c * Shape::chunk * Shape::row_bytes;
        typename Shape::Products s;
        typename Shape::Weights weights;
        multiply<Shape>(s, query_rows, chunk, column_lane);
        scores.score(s, c * Shape::chunk);
        statistics.weigh(s, out, weights);
        accumulate<Shape>(out, weights, chunk + Shape::tile_bytes, row_lane, place.column / columns);
      }
    };
    TileStream<Shape, true>(round, place.streamed, ints + TileTokens::ints(rows, pass.options.rounds))
        .run(round, enqueue, multiply_tile);
    store_state(pass, state, queries, place, out, statistics);
  }

  /// Adds a round's share of dq (`keys_resident` false), or of dk and dv, which for samples go to the slots.
  template <bool keys_resident>
  static __device__ __forceinline__ void differentiate(const SortedBackward<bfloat16>& in,
                                                       SortedRound<bfloat16>& round, const SortedPlace& place,
                                                       std::byte* shared) {
    const SortedPass<bfloat16>& pass = in.pass;
    const Heads<const bfloat16>&own = keys_resident ? pass.in.k : pass.in.q,
                      &own_slopes = keys_resident ? pass.in.v : in.dout,
                      &other = keys_resident ? pass.in.q : pass.in.k,
                      &other_slopes = keys_resident ? in.dout : pass.in.v;
    const std::uint32_t row_tile = shared_address_of(shared), slope_tile = row_tile + Shape::rows_bytes,
                        tile = slope_tile + Shape::rows_bytes;
    float* const values =
        reinterpret_cast<float*>(shared + 2 * (Shape::rows_bytes + stages * Shape::tile_bytes));
    int* const ints = reinterpret_cast<int*>(values + stages * 3 * rows);
    TileTokens resident(ints, rows);
    load_side<keys_resident>(round, place.first, place.last, resident);
    __syncthreads();
    gather_tile<Shape>(row_tile, own, resident, place.head, pass.packed);
    gather_tile<Shape>(slope_tile, own_slopes, resident, place.head, pass.packed);
    if constexpr (!keys_resident) QueryValues<float>(values, rows).load(in, resident, place.head);
    using Layout = TileLayout<Shape::width>;
    const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
    StationaryRows<Shape> kept_rows(row_tile), kept_slopes(slope_tile);
    bool is_kept = false;
    typename Shape::Outputs sums, value_sums;
    clear_outputs<Shape>(sums);
    clear_outputs<Shape>(value_sums);
    const auto enqueue = [&](const TileTokens& streamed, int stage) {
      const std::uint32_t target = tile + stage * 2 * Shape::tile_bytes;
      gather_tile<Shape>(target, other, streamed, place.head, pass.packed);
      gather_tile<Shape>(target + Shape::tile_bytes, other_slopes, streamed, place.head, pass.packed);
      if constexpr (keys_resident) copy_values(in, streamed, place.head, values + stage * 3 * rows);
    };
    const auto multiply_tile = [&](const TileTokens& streamed, int stage) {
      if (!is_kept) {
        kept_rows.keep();
        kept_slopes.keep();
      }
      is_kept = true;
      if (block_row<Shape>(0, 0) / 16 * 16 >= resident.count) return;
      const SortedScores<Shape, keys_resident> scores(round, resident, streamed);
      const QueryValues<float> query_values(values + (keys_resident ? stage * 3 * rows : 0), rows);
#pragma unroll 1
      for (int c = 0; c * Shape::chunk < streamed.count; ++c) {
        const std::uint32_t chunk = tile + stage * 2 * Shape::tile_bytes + c * Shape::chunk * Shape::row_bytes;
        typename Shape::Products s, slopes;
        typename Shape::Weights weights, packed_slopes;
        multiply<Shape>(s, kept_rows, chunk, column_lane);
        multiply<Shape>(slopes, kept_slopes, chunk + Shape::tile_bytes, column_lane);
        scores.score(s, c * Shape::chunk);
        weigh<keys_resident>(query_values, c * Shape::chunk, s, slopes);
#pragma unroll
        for (int u = 0; u < Shape::blocks16; ++u) {
          if constexpr (keys_resident) weights[u] = pack_fragment(s[u]);
          packed_slopes[u] = pack_fragment(slopes[u]);
        }
        if constexpr (keys_resident)
          accumulate<Shape>(value_sums, weights, chunk + Shape::tile_bytes, row_lane, place.column / columns);
        accumulate<Shape>(sums, packed_slopes, chunk, row_lane, place.column / columns);
      }
    };
    TileStream<Shape, !keys_resident>(round, place.streamed, ints + TileTokens::ints(rows, pass.options.rounds))
        .run(round, enqueue, multiply_tile);
    const auto scale = static_cast<float>(pass.options.scale);
    if constexpr (keys_resident) {
      add_sums<true>(in, resident, place, value_sums, in.dv, in.slot_dv, 1);
      add_sums<true>(in, resident, place, sums, in.dk, in.slot_dk, scale);
    } else {
      add_sums<false>(in, resident, place, sums, in.dq, nullptr, scale);
    }
  }

 private:
  static std::size_t token_bytes(int rounds) {
    return sizeof(int) * static_cast<std::size_t>(TileTokens::ints((1 + stages) * rows, rounds));
  }

  template <bool are_keys>
  static __device__ __forceinline__ void load_side(const SortedRound<bfloat16>& round, int first, int last,
                                                   TileTokens& to) {
    if constexpr (are_keys)
      round.load_keys(first, last, to);
    else
      round.load_queries(first, last, to);
  }

  /// Enqueues what QueryValues hold of a streamed tile.
  static __device__ __forceinline__ void copy_values(const SortedBackward<bfloat16>& in,
                                                     const TileTokens& queries, int head, float* memory) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= rows) return;
    const QueryValues<float> values(memory, rows);
    const bool exists = i < queries.count;
    const std::int64_t place =
        static_cast<std::int64_t>(head) * in.pass.sequences.tokens + (exists ? queries.token[i] : 0);
    const int bytes = exists ? 4 : 0;
    copy_4(shared_address_of(values.top + i), in.sums.top + place, bytes);
    copy_4(shared_address_of(values.inverse + i), in.sums.inverse + place, bytes);
    copy_4(shared_address_of(values.dot + i), in.dots + place, bytes);
  }

  /// What the rounds before left of a tile's queries. The sum of the weights goes to one of the row's lanes.
  static __device__ __forceinline__ void load_state(const SortedPass<bfloat16>& pass,
                                                    const SortedState<float>& state, const TileTokens& queries,
                                                    const SortedPlace& place, typename Shape::Outputs& out,
                                                    RowStatistics<Shape>& statistics) {
    clear_outputs<Shape>(out);
    const int width = pass.in.q.width;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = block_row<Shape>(0, half);
      const bool is_known = pass.round > 0 && row < queries.count;
      const std::int64_t at = place.head * pass.sequences.tokens + (is_known ? queries.token[row] : 0);
      statistics.top[half] = is_known ? state.top[at] : -INFINITY;
      statistics.sum[half] = is_known && threadIdx.x % 4 == 0 ? state.total[at] : 0.0f;
    }
    if (pass.round == 0) return;
    for_each_pair<Shape>(
        out, queries.count, place.column, width, [&](int row, int column, float& a, float& b, bool both) {
          const std::int64_t at = std::int64_t{queries.token[row]} * pass.in.q.heads + place.head;
          load_neighbours(state.sums + at * width + column, width, both, a, b);
        });
  }
  static __device__ __forceinline__ void store_state(const SortedPass<bfloat16>& pass,
                                                     const SortedState<float>& state, const TileTokens& queries,
                                                     const SortedPlace& place, typename Shape::Outputs& out,
                                                     const RowStatistics<Shape>& statistics) {
    const int width = pass.in.q.width;
    for_each_pair<Shape>(
        out, queries.count, place.column, width, [&](int row, int column, float a, float b, bool both) {
          const std::int64_t at = std::int64_t{queries.token[row]} * pass.in.q.heads + place.head;
          store_neighbours(state.sums + at * width + column, width, both, a, b);
        });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(statistics.sum[half]);
      const int row = block_row<Shape>(0, half);
      if (place.column > 0 || threadIdx.x % 4 != 0 || row >= queries.count) continue;
      const std::int64_t at = place.head * pass.sequences.tokens + queries.token[row];
      state.new_top[at] = statistics.top[half];
      state.new_total[at] = sum;
    }
  }

  /// Scores -> weights, and products of dout and v -> gradients of the scores; the streamed rows of the chunk
  /// begin at `first`.
  template <bool keys_resident>
  static __device__ __forceinline__ void weigh(const QueryValues<float>& values, int first,
                                               typename Shape::Products& s, typename Shape::Products& slopes) {
    const auto weigh_pair = [](float top, float inverse, float dot, float& weight, float& slope) {
      weight = power_of_two(weight - top) * inverse;
      slope = weight * (slope - dot);
    };
    float top[2], inverse[2], dot[2];
    if constexpr (!keys_resident) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = block_row<Shape>(0, half);
        top[half] = values.top[row], inverse[half] = values.inverse[row], dot[half] = values.dot[row];
      }
    }
    for_each_columns<Shape>(first, [&](int u, int j, int column) {
      if constexpr (keys_resident) {
        const Pack<float, 2> tops = neighbours(values.top + column), dots = neighbours(values.dot + column),
                             inverses = neighbours(values.inverse + column);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          weigh_pair(tops.item[i % 2], inverses.item[i % 2], dots.item[i % 2], s[u][j][i], slopes[u][j][i]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          weigh_pair(top[i / 2], inverse[i / 2], dot[i / 2], s[u][j][i], slopes[u][j][i]);
      }
    });
  }

  template <bool keys_resident>
  static __device__ __forceinline__ void add_sums(const SortedBackward<bfloat16>& in,
                                                  const TileTokens& resident, const SortedPlace& place,
                                                  typename Shape::Outputs& sums, float* to, float* slots,
                                                  float factor) {
    const int width = in.pass.in.q.width;
    const bool is_sampled = keys_resident && in.pass.is_sampled(), is_first = is_sampled || in.pass.round == 0;
    for_each_pair<Shape>(
        sums, resident.count, place.column, width, [&](int row, int column, float a, float b, bool both) {
          const std::int64_t index = is_sampled
                                         ? place.slots + row
                                         : std::int64_t{resident.token[row]} * in.pass.in.q.heads + place.head;
          float* const at = (is_sampled ? slots : to) + index * width + column;
          float before[2] = {0, 0};
          if (!is_first) load_neighbours(at, width, both, before[0], before[1]);
          store_neighbours(at, width, both, before[0] + factor * a, before[1] + factor * b);
        });
  }
};

}  // namespace
}  // namespace tern::kernels
