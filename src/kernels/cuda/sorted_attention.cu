// Attention along a sort, forward: rounds follow one another, and a block owns a tile of queries of one round.
// The sums of weighted values, the largest logit and the sum of the weights of each query lie in memory between
// rounds. Deterministic. Cost for each query and key of a tile: 2 x width multiply-adds and an exponential.
#include "kernels/cuda/sorted_attention.cuh"

namespace tern::kernels {
namespace {

constexpr int row_threads = 256;

template <class A>
struct SortedState {
  const A *top, *total;    ///< [heads, tokens] of the rounds before
  A *new_top, *new_total;  ///< a block for each chunk of the width reads the old ones
  A* sums;                 ///< [tokens, heads, width]
};

template <class T, class Tiles>
__global__ void __launch_bounds__(Tiles::threads)
    attend_sorted(SortedPass<T> pass, SortedState<Accumulate<T>> state) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) std::byte shared[];
  A* const q = reinterpret_cast<A*>(shared);
  A* const k = q + Tiles::rows * Tiles::stride;
  A* const v = k + Tiles::keys * Tiles::stride;
  A* const weights = v + Tiles::keys * Tiles::stride;
  int* const ints = reinterpret_cast<int*>(weights + Tiles::weight_items);
  const int heads = pass.in.q.heads, width = pass.in.q.width, block = static_cast<int>(blockIdx.x);
  const SequencePart part = find_part(pass.sequences, block / (heads * pass.chunks), Tiles::rows);
  if (part.sequence < 0) return;
  const int head = block % (heads * pass.chunks) / pass.chunks, chunk = block % pass.chunks,
            column = chunk * Tiles::columns;
  SortedRound<T> round(pass, part, head);
  TileTokens queries(ints, Tiles::rows),
      keys(ints + TileTokens::ints(Tiles::rows, pass.options.rounds), Tiles::keys);
  round.load_queries(part.first, part.length, queries);
  __syncthreads();
  const typename Tiles::Lane lane;
  const auto place = [&](int r) {
    return static_cast<std::int64_t>(head) * pass.sequences.tokens + queries.token[lane.row(r)];
  };
  const auto row = [&](int r) { return state.sums + (std::int64_t{queries.token[r]} * heads + head) * width; };
  A top[Tiles::thread_rows], total[Tiles::thread_rows];
  typename Tiles::Sums sums{};
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r) {
    const bool is_known = pass.round > 0 && lane.row(r) < queries.count;
    top[r] = is_known ? state.top[place(r)] : -INFINITY;
    total[r] = is_known && threadIdx.x % Tiles::row_lanes == 0 ? state.total[place(r)] : A{0};
  }
  if (pass.round > 0)
    for_each_sum<Tiles>(lane, sums, queries.count, column, width,
                        [&](int r, int c, A& sum) { sum = row(r)[c]; });
  bool is_staged = false;
  const PlaceRanges ranges = round.keys_of(part.first, part.first + queries.count);
  for (int range = 0; range < 2; ++range) {
    round.meet_keys(range);
    for (int key = ranges.first[range]; key < ranges.last[range]; key += Tiles::keys) {
      __syncthreads();
      round.load_keys(key, ranges.last[range], keys);
      __syncthreads();
      typename Tiles::Scores scores{};
      for (int i = 0; i < pass.chunks; ++i) {
        if (i > 0) __syncthreads();
        if (pass.chunks > 1 || !is_staged)
          stage_tokens<Tiles::columns, Tiles::stride>(q, pass.in.q, queries, head, i * Tiles::columns,
                                                      pass.packed);
        is_staged = true;
        stage_tokens<Tiles::columns, Tiles::stride>(k, pass.in.k, keys, head, i * Tiles::columns, pass.packed);
        __syncthreads();
        add_products<Tiles>(lane, q, k, scores);
      }
      stage_tokens<Tiles::columns, Tiles::stride>(v, pass.in.v, keys, head, column, pass.packed);
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
      add_weighted<Tiles, Tiles::stride>(lane, scores, weights, v, sums);
    }
  }
  for_each_sum<Tiles>(lane, sums, queries.count, column, width,
                      [&](int r, int c, const A& sum) { row(r)[c] = sum; });
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r) {
    const A sum = warp_sum(total[r], Tiles::row_lanes);
    if (chunk > 0 || threadIdx.x % Tiles::row_lanes != 0 || lane.row(r) >= queries.count) continue;
    state.new_top[place(r)] = top[r];
    state.new_total[place(r)] = sum;
  }
}

/// out = sums / total, with zeros outside all sequences. A warp owns a row.
template <class T>
__global__ void __launch_bounds__(row_threads)
    divide_rows(Sequences sequences, const Accumulate<T>* rows, const Accumulate<T>* top,
                const Accumulate<T>* total, Heads<T> out, WeightSums<Accumulate<T>> sums) {
  using A = Accumulate<T>;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  for (std::int64_t i = thread_index() / warp_lanes; i < sequences.tokens * out.heads;
       i += grid_threads() / warp_lanes) {
    const std::int64_t token = i / out.heads, place = i % out.heads * sequences.tokens + token;
    const bool exists = token < sequences.offsets[sequences.count];
    const A inverse = exists ? A{1} / total[place] : A{0};
    for (int c = lane; c < out.width; c += warp_lanes)
      row_of(out, token, static_cast<int>(i % out.heads))[c] =
          from_accumulate<T>(exists ? rows[i * out.width + c] * inverse : A{0});
    if (lane > 0) continue;
    sums.top[place] = exists ? top[place] : A{0};
    sums.inverse[place] = inverse;
  }
}

template <class Tiles, class T>
void run_rounds(Cuda& cuda, SortedPass<T> pass, Heads<T> out, const WeightSums<Accumulate<T>>& sums) {
  using A = Accumulate<T>;
  void (*const kernel)(SortedPass<T>, SortedState<A>) = attend_sorted<T, Tiles>;
  const int heads = pass.in.q.heads, width = pass.in.q.width;
  const std::size_t bytes =
      sizeof(A) * ((Tiles::rows + 2 * Tiles::keys) * Tiles::stride + Tiles::weight_items) +
      sizeof(int) * static_cast<std::size_t>(TileTokens::ints(Tiles::rows + Tiles::keys, pass.options.rounds));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "sorted_attention: shared memory");
  pass.chunks = (width + Tiles::columns - 1) / Tiles::columns;
  const std::int64_t blocks = most_parts(pass.sequences, Tiles::rows) * heads * pass.chunks;
  require(blocks < std::int64_t{1} << 31,
          "sorted_attention: tokens / {} x heads must lie below 2^31, got {} tokens and {} heads; use smaller "
          "batches",
          Tiles::rows, pass.sequences.tokens, heads);
  const std::int64_t rows = pass.sequences.tokens * heads;
  const Scratch<A> state(cuda, 4 * rows), rows_of_sums(cuda, rows * width);
  const int rounds = pass.options.rounds + (pass.options.samples > 0 ? 1 : 0);
  A *old_state = state.data(), *new_state = old_state + 2 * rows;
  for (int round = 0; round < rounds; ++round) {
    pass.round = round;
    kernel<<<static_cast<unsigned>(blocks), Tiles::threads, bytes, cuda.stream>>>(
        pass, {old_state, old_state + rows, new_state, new_state + rows, rows_of_sums.data()});
    check_launch("sorted_attention");
    std::swap(old_state, new_state);
  }
  divide_rows<T><<<grid_for(cuda, rows * warp_lanes, row_threads), row_threads, 0, cuda.stream>>>(
      pass.sequences, rows_of_sums.data(), old_state, old_state + rows, out, sums);
  check_launch("sorted_attention: division");
}

}  // namespace

template <class T>
void sorted_attention_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                              const SortedOptions& options, Heads<T> out,
                              const WeightSums<Accumulate<T>>& sums) {
  if (sequences.tokens == 0 || in.q.heads == 0) return;
  const SortedPass<T> pass{
      sequences, in, options, 0, 1, rows_move_by(in.q, 4) && rows_move_by(in.k, 4) && rows_move_by(in.v, 4)};
  with_sorted_tiles<T>(in.q.width, [&]<class Tiles>(Tiles) { run_rounds<Tiles>(cuda, pass, out, sums); });
}

#define INSTANTIATE(T)                                                                          \
  template void sorted_attention_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&, \
                                            const SortedOptions&, Heads<T>, const WeightSums<Accumulate<T>>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
