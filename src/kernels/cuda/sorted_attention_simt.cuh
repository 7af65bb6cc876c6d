// Attention along a sort in plain arithmetic: the products of a tile are those of exact attention in float32
// (attention_simt_tiles.cuh).
#pragma once

#include "kernels/cuda/sorted_attention.cuh"

namespace tern::kernels {
namespace {

/// Columns `column` .. + columns - 1 of the rows of `tokens` in rows `stride` apart; zeros outside.
template <int columns, int stride, class T>
__device__ __forceinline__ void stage_tokens(Accumulate<T>* to, const Heads<const T>& from,
                                             const TileTokens& tokens, int head, int column, bool packed) {
  const auto copy = [&]<int items>(std::integral_constant<int, items>) {
    constexpr int packs = columns / items;
    for (int i = static_cast<int>(threadIdx.x); i < tokens.size * packs; i += static_cast<int>(blockDim.x)) {
      const int row = i / packs, place = i % packs * items;
      Pack<T, items> pack{};
      if (row < tokens.count && column + place < from.width)
        pack = load_pack<items>(row_of(from, tokens.token[row], head) + column + place);
#pragma unroll
      for (int u = 0; u < items; ++u) to[row * stride + place + u] = to_accumulate(pack.item[u]);
    }
  };
  if (packed)
    copy(std::integral_constant<int, 4>{});
  else
    copy(std::integral_constant<int, 1>{});
}

/// Visits a lane's sums: visit(row of the tile, column of the head, sum).
template <class Tiles, class Visit>
__device__ __forceinline__ void for_each_sum(const typename Tiles::Lane& lane, typename Tiles::Sums& sums,
                                             int count, int column, int width, Visit visit) {
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
    for (int c = 0; c < Tiles::thread_columns; ++c) {
      const int at = column + lane.column(c / Tiles::items) + c % Tiles::items;
      if (lane.row(r) < count && at < width) visit(lane.row(r), at, sums[r][c]);
    }
}

/// Rows of T and chunks of the width through SimtTiles.
template <class T, class Tiles>
struct SortedSimt {
  static constexpr int rows = Tiles::rows, keys = Tiles::keys, columns = Tiles::columns;
  static constexpr int threads = Tiles::threads, blocks = 1, query_blocks = 1;

  static std::size_t forward_bytes(int rounds) { return SimtForwardMemory<Tiles>::bytes + token_bytes(rounds); }
  template <bool keys_resident>
  static std::size_t backward_bytes(int rounds) {
    return sizeof(T) *
               (2 * (rows + keys) * Tiles::stride + Tiles::weight_items + 3 * (keys_resident ? keys : rows)) +
           token_bytes(rounds);
  }

  /// Adds a round's share of the weighted values of a tile of queries.
  static __device__ void attend(const SortedPass<T>& pass, const SortedState<Accumulate<T>>& state,
                                SortedRound<T>& round, const SortedPlace& place, std::byte* shared) {
    using A = Accumulate<T>;
    const SimtForwardMemory<Tiles> memory(shared);
    int* const ints = reinterpret_cast<int*>(memory.end);
    const int heads = pass.in.q.heads, width = pass.in.q.width, head = place.head, column = place.column;
    TileTokens queries(ints, Tiles::rows),
        keys(ints + TileTokens::ints(Tiles::rows, pass.options.rounds), Tiles::keys);
    round.load_queries(place.first, place.last, queries);
    __syncthreads();
    const typename Tiles::Lane lane;
    const auto index = [&](int r) {
      return static_cast<std::int64_t>(head) * pass.sequences.tokens + queries.token[lane.row(r)];
    };
    const auto row = [&](int r) {
      return state.sums + (std::int64_t{queries.token[r]} * heads + head) * width;
    };
    A top[Tiles::thread_rows], total[Tiles::thread_rows];
    typename Tiles::Sums sums{};
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      const bool is_known = pass.round > 0 && lane.row(r) < queries.count;
      top[r] = is_known ? state.top[index(r)] : -INFINITY;
      total[r] = is_known && threadIdx.x % Tiles::row_lanes == 0 ? state.total[index(r)] : A{0};
    }
    if (pass.round > 0)
      for_each_sum<Tiles>(lane, sums, queries.count, column, width,
                          [&](int r, int c, A& sum) { sum = row(r)[c]; });
    bool is_staged = false;
    for (int range = 0; range < 2; ++range) {
      round.meet_keys(range);
      for (int key = place.streamed.first[range]; key < place.streamed.last[range]; key += Tiles::keys) {
        __syncthreads();
        round.load_keys(key, place.streamed.last[range], keys);
        __syncthreads();
        typename Tiles::Scores scores{};
        for (int i = 0; i < pass.chunks; ++i) {
          if (i > 0) __syncthreads();
          if (pass.chunks > 1 || !is_staged)
            stage_tokens<Tiles::columns, Tiles::stride>(memory.q, pass.in.q, queries, head, i * Tiles::columns,
                                                        pass.packed);
          is_staged = true;
          stage_tokens<Tiles::columns, Tiles::stride>(memory.k, pass.in.k, keys, head, i * Tiles::columns,
                                                      pass.packed);
          __syncthreads();
          add_products<Tiles>(lane, memory.q, memory.k, scores);
        }
        stage_tokens<Tiles::columns, Tiles::stride>(memory.v, pass.in.v, keys, head, column, pass.packed);
#pragma unroll
        for (int r = 0; r < Tiles::thread_rows; ++r) {
          A factors[Tiles::thread_keys], largest = top[r];
#pragma unroll
          for (int j = 0; j < Tiles::thread_keys; ++j) {
            factors[j] = round.template factor<A>(queries, lane.row(r), keys, lane.key(j));
            scores[r][j] = round.logit(queries, lane.row(r), keys, lane.key(j), scores[r][j]);
            if (factors[j] > 0 && scores[r][j] > largest) largest = scores[r][j];
          }
          largest = warp_max(largest, Tiles::row_lanes);
          const A rescale = top[r] == largest ? A{1} : exp2(top[r] - largest);
          top[r] = largest;
          total[r] *= rescale;
#pragma unroll
          for (int j = 0; j < Tiles::thread_keys; ++j)
            total[r] += scores[r][j] = factors[j] > 0 ? exp2(scores[r][j] - largest) * factors[j] : A{0};
#pragma unroll
          for (int c = 0; c < Tiles::thread_columns; ++c) sums[r][c] *= rescale;
        }
        __syncthreads();
        add_weighted<Tiles, Tiles::stride>(lane, scores, memory.weights, memory.v, sums);
      }
    }
    for_each_sum<Tiles>(lane, sums, queries.count, column, width,
                        [&](int r, int c, const A& sum) { row(r)[c] = sum; });
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      const A sum = warp_sum(total[r], Tiles::row_lanes);
      if (column > 0 || threadIdx.x % Tiles::row_lanes != 0 || lane.row(r) >= queries.count) continue;
      state.new_top[index(r)] = top[r];
      state.new_total[index(r)] = sum;
    }
  }

  /// Adds a round's share of dq (`keys_resident` false), or of dk and dv, which for samples go to the slots.
  template <bool keys_resident>
  static __device__ void differentiate(const SortedBackward<T>& in, SortedRound<T>& round,
                                       const SortedPlace& place, std::byte* shared) {
    using A = Accumulate<T>;
    const SortedPass<T>& pass = in.pass;
    A* const own = reinterpret_cast<A*>(shared);              // q or k
    A* const own_slopes = own + Tiles::rows * Tiles::stride;  // dout or v
    A* const other = own_slopes + Tiles::rows * Tiles::stride;
    A* const other_slopes = other + Tiles::keys * Tiles::stride;
    A* const weights = other_slopes + Tiles::keys * Tiles::stride;
    A* const values = weights + Tiles::weight_items;
    constexpr int query_size = keys_resident ? Tiles::keys : Tiles::rows;
    int* const ints = reinterpret_cast<int*>(values + 3 * query_size);
    TileTokens resident(ints, Tiles::rows),
        streamed(ints + TileTokens::ints(Tiles::rows, pass.options.rounds), Tiles::keys);
    const TileTokens &queries = keys_resident ? streamed : resident,
                     &keys = keys_resident ? resident : streamed;
    QueryValues<A> query_values(values, query_size);
    if constexpr (keys_resident)
      round.load_keys(place.first, place.last, resident);
    else
      round.load_queries(place.first, place.last, resident);
    __syncthreads();
    if constexpr (!keys_resident) query_values.load(in, queries, place.head);
    const typename Tiles::Lane lane;
    typename Tiles::Sums sums{}, value_sums{};
    bool is_staged = false;
    const auto stage = [&](A* to, const Heads<const T>& from, const TileTokens& tokens, int column) {
      stage_tokens<Tiles::columns, Tiles::stride>(to, from, tokens, place.head, column, pass.packed);
    };
    for (int range = 0; range < 2; ++range) {
      if constexpr (keys_resident)
        round.meet_queries(range);
      else
        round.meet_keys(range);
      for (int first = place.streamed.first[range]; first < place.streamed.last[range]; first += Tiles::keys) {
        __syncthreads();
        if constexpr (keys_resident)
          round.load_queries(first, place.streamed.last[range], streamed);
        else
          round.load_keys(first, place.streamed.last[range], streamed);
        typename Tiles::Scores scores{}, slopes{};
        for (int i = 0; i < pass.chunks; ++i) {  // the block's own columns come last and stay
          const int column = (place.column + (1 + i) * Tiles::columns) % (pass.chunks * Tiles::columns);
          __syncthreads();
          if (keys_resident && i == 0) query_values.load(in, queries, place.head);
          if (pass.chunks > 1 || !is_staged) {
            stage(own, keys_resident ? pass.in.k : pass.in.q, resident, column);
            stage(own_slopes, keys_resident ? pass.in.v : in.dout, resident, column);
            is_staged = true;
          }
          stage(other, keys_resident ? pass.in.q : pass.in.k, streamed, column);
          stage(other_slopes, keys_resident ? in.dout : pass.in.v, streamed, column);
          __syncthreads();
          add_products<Tiles>(lane, own, other, scores);
          add_products<Tiles>(lane, own_slopes, other_slopes, slopes);
        }
#pragma unroll
        for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
          for (int j = 0; j < Tiles::thread_keys; ++j) {
            const int query = keys_resident ? lane.key(j) : lane.row(r),
                      key = keys_resident ? lane.row(r) : lane.key(j);
            const A factor = round.template factor<A>(queries, query, keys, key);
            A weight = 0, slope = 0;
            if (factor > 0) {
              weight = exp2(round.logit(queries, query, keys, key, scores[r][j]) - query_values.top[query]) *
                       (factor * query_values.inverse[query]);
              slope = weight * (slopes[r][j] - query_values.dot[query]);
            }
            scores[r][j] = weight;
            slopes[r][j] = slope;
          }
        if constexpr (keys_resident)
          add_weighted<Tiles, Tiles::stride>(lane, scores, weights, other_slopes, value_sums);
        add_weighted<Tiles, Tiles::stride>(lane, slopes, weights, other, sums);
      }
    }
    const int width = pass.in.q.width;
    const auto scale = static_cast<A>(pass.options.scale);
    const auto write = [&](typename Tiles::Sums& from, A* to, A* slots, A factor) {
      for_each_sum<Tiles>(lane, from, resident.count, place.column, width, [&](int r, int c, const A& sum) {
        if (keys_resident && pass.is_sampled()) {
          slots[(place.slots + r) * width + c] = factor * sum;
          return;
        }
        A* const at = to + (std::int64_t{resident.token[r]} * pass.in.q.heads + place.head) * width + c;
        *at = pass.round == 0 ? factor * sum : *at + factor * sum;
      });
    };
    write(sums, keys_resident ? in.dk : in.dq, in.slot_dk, scale);
    if constexpr (keys_resident) write(value_sums, in.dv, in.slot_dv, A{1});
  }

 private:
  static std::size_t token_bytes(int rounds) {
    return sizeof(int) * static_cast<std::size_t>(TileTokens::ints(rows + keys, rounds));
  }
};

}  // namespace
}  // namespace tern::kernels
