// Attention along a sort, backward: in each round one pass of blocks owns tiles of queries (dq), another tiles
// of keys (dk, dv), and both compute the weights again. Shares of sampled keys are summed over pieces of the
// sequence, and then by the first slot that drew a key. Deterministic. Cost for each query and key of a tile: 7
// x width multiply-adds and two exponentials.
#include "kernels/cuda/sorted_attention.cuh"

namespace tern::kernels {
namespace {

constexpr int row_threads = 256;

template <class T>
struct SortedBackward {
  SortedPass<T> pass;
  Heads<const T> dout;
  WeightSums<const Accumulate<T>> sums;
  const Accumulate<T>* dots;                            ///< [heads, tokens] sum_c dout out
  Accumulate<T>*dq, *dk, *dv;                           ///< [tokens, heads, width]
  Accumulate<T>*slot_dk = nullptr, *slot_dv = nullptr;  ///< [pieces, heads, samples, width]
};

/// Sequences have pieces of sample_queries tokens; this numbers those of a batch without gaps that matter.
__device__ std::int64_t first_piece(int begin, int sequence) { return begin / sample_queries + sequence; }
std::int64_t most_pieces(const Sequences& sequences) {
  return sequences.tokens / sample_queries + sequences.count + 1;
}

/// What a query brings to its pairs, [3][tile].
template <class A>
struct QueryValues {
  A *top, *inverse, *dot;
  __device__ QueryValues(A* memory, int size) : top(memory), inverse(memory + size), dot(memory + 2 * size) {}
  template <class T>
  __device__ void load(const SortedBackward<T>& in, const TileTokens& queries, int head) {
    for (int i = static_cast<int>(threadIdx.x); i < queries.count; i += static_cast<int>(blockDim.x)) {
      const std::int64_t place = static_cast<std::int64_t>(head) * in.pass.sequences.tokens + queries.token[i];
      top[i] = in.sums.top[place];
      inverse[i] = in.sums.inverse[place];
      dot[i] = in.dots[place];
    }
  }
};

/// A block's tile: the resident rows, and the places that stream past them.
struct BackwardPlace {
  int head, column, first, last;  ///< resident places: of keys, queries or samples
  PlaceRanges streamed;
  std::int64_t slots = 0;  ///< where the samples' shares go, in rows
};

/// Adds a round's share of dq (`keys_resident` false), or of dk and dv, which for samples go to the slots.
template <class T, class Tiles, bool keys_resident>
__device__ void differentiate_tile(const SortedBackward<T>& in, SortedRound<T>& round,
                                   const BackwardPlace& place, std::byte* shared) {
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
  const TileTokens &queries = keys_resident ? streamed : resident, &keys = keys_resident ? resident : streamed;
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

/// Block: a tile of a sequence's queries, or of its keys in a sorted round.
template <class T, class Tiles, bool keys_resident>
__global__ void __launch_bounds__(Tiles::threads) differentiate_sorted(SortedBackward<T> in) {
  extern __shared__ __align__(16) std::byte shared[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, block = static_cast<int>(blockIdx.x);
  const SequencePart part = find_part(pass.sequences, block / (heads * pass.chunks), Tiles::rows);
  if (part.sequence < 0) return;
  const int head = block % (heads * pass.chunks) / pass.chunks;
  SortedRound<T> round(pass, part, head);
  const int last = min(part.first + Tiles::rows, part.length);
  const PlaceRanges streamed =
      keys_resident ? round.queries_of(part.first, last) : round.keys_of(part.first, last);
  differentiate_tile<T, Tiles, keys_resident>(
      in, round, {head, block % pass.chunks * Tiles::columns, part.first, last, streamed}, shared);
}

/// Block: a tile of the sampled keys of a sequence and head, and a piece of its queries.
template <class T, class Tiles>
__global__ void __launch_bounds__(Tiles::threads) differentiate_samples(SortedBackward<T> in) {
  extern __shared__ __align__(16) std::byte shared[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, samples = pass.options.samples,
            tiles = (samples + Tiles::rows - 1) / Tiles::rows;
  int block = static_cast<int>(blockIdx.x);
  const int column = block % pass.chunks * Tiles::columns;
  block /= pass.chunks;
  const int first = block % tiles * Tiles::rows;
  block /= tiles;
  const int head = block % heads;
  const SequencePart part = find_part(pass.sequences, block / heads, sample_queries);
  if (part.sequence < 0) return;
  SortedRound<T> round(pass, part, head);
  if (round.samples() == 0) return;
  const std::int64_t piece = first_piece(part.begin, part.sequence) + part.first / sample_queries;
  const PlaceRanges streamed{{part.first, 0}, {min(part.first + sample_queries, part.length), 0}};
  differentiate_tile<T, Tiles, true>(in, round,
                                     {head, column, first, min(first + Tiles::rows, samples), streamed,
                                      (piece * heads + head) * samples + first},
                                     shared);
}

/// Block: a sequence and head. A warp takes slots; the first slot that drew a key adds the shares of all that
/// did.
template <class T>
__global__ void __launch_bounds__(row_threads) add_samples(SortedBackward<T> in) {
  using A = Accumulate<T>;
  extern __shared__ int drawn[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, width = pass.in.q.width, samples = pass.options.samples;
  const int sequence = static_cast<int>(blockIdx.x) / heads, head = static_cast<int>(blockIdx.x) % heads;
  const int begin = pass.sequences.offsets[sequence], length = pass.sequences.offsets[sequence + 1] - begin;
  if (length == 0 || pass.options.samples_of(length) == 0) return;
  for (int slot = static_cast<int>(threadIdx.x); slot < samples; slot += row_threads)
    drawn[slot] = sampled_key(pass.options.stream, pass.sequences.sample[sequence], head, slot, length);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t piece = first_piece(begin, sequence),
                     pieces = (length + sample_queries - 1) / sample_queries;
  for (int slot = static_cast<int>(threadIdx.x) / warp_lanes; slot < samples;
       slot += row_threads / warp_lanes) {
    bool is_first = true;
    for (int other = lane; other < slot; other += warp_lanes) is_first &= drawn[other] != drawn[slot];
    if (!__all_sync(0xFFFFFFFFu, is_first)) continue;
    for (int c = lane; c < width; c += warp_lanes) {
      A dk = 0, dv = 0;
      for (int other = slot; other < samples; ++other) {
        if (drawn[other] != drawn[slot]) continue;
        for (std::int64_t p = piece; p < piece + pieces; ++p) {
          const std::int64_t from = ((p * heads + head) * samples + other) * width + c;
          dk += in.slot_dk[from];
          dv += in.slot_dv[from];
        }
      }
      const std::int64_t at = (std::int64_t{begin + drawn[slot]} * heads + head) * width + c;
      in.dk[at] += dk;
      in.dv[at] += dv;
    }
  }
}

/// dots[head, token] = sum_c dout out. A warp owns a row.
template <class T>
__global__ void __launch_bounds__(row_threads)
    multiply_rows(Heads<const T> dout, Heads<const T> out, Accumulate<T>* dots) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  for (std::int64_t i = thread_index() / warp_lanes; i < out.tokens * out.heads;
       i += grid_threads() / warp_lanes) {
    const std::int64_t token = i / out.heads;
    const int head = static_cast<int>(i % out.heads);
    Accumulate<T> sum = 0;
    for (int c = lane; c < out.width; c += warp_lanes)
      sum += to_accumulate(row_of(dout, token, head)[c]) * to_accumulate(row_of(out, token, head)[c]);
    sum = warp_sum(sum);
    if (lane == 0) dots[head * out.tokens + token] = sum;
  }
}

/// The three gradients, with zeros outside all sequences.
template <class T>
__global__ void __launch_bounds__(row_threads)
    write_gradients(Sequences sequences, SortedBackward<T> in, AttentionGradients<T> out) {
  const std::int64_t row = std::int64_t{out.dq.heads} * out.dq.width,
                     real = sequences.offsets[sequences.count] * row;
  for (std::int64_t i = thread_index(); i < sequences.tokens * row; i += grid_threads()) {
    const std::int64_t token = i / row;
    const int head = static_cast<int>(i % row / out.dq.width), c = static_cast<int>(i % out.dq.width);
    const auto value = [&](const Accumulate<T>* sums) {
      return from_accumulate<T>(i < real ? sums[i] : Accumulate<T>{0});
    };
    row_of(out.dq, token, head)[c] = value(in.dq);
    row_of(out.dk, token, head)[c] = value(in.dk);
    row_of(out.dv, token, head)[c] = value(in.dv);
  }
}

template <class Tiles, bool keys_resident>
std::size_t shared_bytes(int rounds) {
  const int values = 2 * (Tiles::rows + Tiles::keys) * Tiles::stride + Tiles::weight_items +
                     3 * (keys_resident ? Tiles::keys : Tiles::rows);
  return sizeof(typename Tiles::Value) * static_cast<std::size_t>(values) +
         sizeof(int) * static_cast<std::size_t>(TileTokens::ints(Tiles::rows + Tiles::keys, rounds));
}

template <class T>
void launch(Cuda& cuda, void (*kernel)(SortedBackward<T>), std::int64_t blocks, int threads, std::size_t bytes,
            const SortedBackward<T>& in) {
  require(blocks < std::int64_t{1} << 31,
          "sorted_attention: tokens and heads are too many for one launch, got {} and {}; use smaller batches",
          in.pass.sequences.tokens, in.pass.in.q.heads);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "sorted_attention: shared memory");
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, cuda.stream>>>(in);
  check_launch("sorted_attention backward");
}

template <class Tiles, class T>
void run_rounds(Cuda& cuda, SortedBackward<T> in) {
  using A = Accumulate<T>;
  SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, width = pass.in.q.width, samples = pass.options.samples,
            rounds = pass.options.rounds;
  pass.chunks = (width + Tiles::columns - 1) / Tiles::columns;
  const std::int64_t tiles = most_parts(pass.sequences, Tiles::rows) * heads * pass.chunks;
  const std::size_t query_bytes = shared_bytes<Tiles, false>(rounds),
                    key_bytes = shared_bytes<Tiles, true>(rounds);
  for (int round = 0; round < rounds + (samples > 0 ? 1 : 0); ++round) {
    pass.round = round;
    launch(cuda, differentiate_sorted<T, Tiles, false>, tiles, Tiles::threads, query_bytes, in);
    if (round < rounds)
      launch(cuda, differentiate_sorted<T, Tiles, true>, tiles, Tiles::threads, key_bytes, in);
  }
  if (samples == 0) return;
  const Scratch<A> slots(cuda, 2 * most_pieces(pass.sequences) * heads * samples * width);
  in.slot_dk = slots.data();
  in.slot_dv = slots.data() + most_pieces(pass.sequences) * heads * samples * width;
  const std::int64_t blocks = most_parts(pass.sequences, sample_queries) * heads *
                              ((samples + Tiles::rows - 1) / Tiles::rows) * pass.chunks;
  launch(cuda, differentiate_samples<T, Tiles>, blocks, Tiles::threads, key_bytes, in);
  launch(cuda, add_samples<T>, pass.sequences.count * heads, row_threads,
         sizeof(int) * static_cast<std::size_t>(samples), in);
}

}  // namespace

template <class T>
void sorted_attention_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SortedOptions& options, Heads<const T> out,
                               const WeightSums<const Accumulate<T>>& sums, Heads<const T> dout,
                               const AttentionGradients<T>& gradients) {
  if (sequences.tokens == 0 || in.q.heads == 0) return;
  const std::int64_t rows = sequences.tokens * in.q.heads, values = rows * in.q.width;
  const Scratch<Accumulate<T>> scratch(cuda, rows + 3 * values);
  const bool packed =
      rows_move_by(in.q, 4) && rows_move_by(in.k, 4) && rows_move_by(in.v, 4) && rows_move_by(dout, 4);
  Accumulate<T>* const dots = scratch.data();
  const SortedBackward<T> arguments{.pass = {sequences, in, options, 0, 1, packed},
                                    .dout = dout,
                                    .sums = sums,
                                    .dots = dots,
                                    .dq = dots + rows,
                                    .dk = dots + rows + values,
                                    .dv = dots + rows + 2 * values};
  multiply_rows<T>
      <<<grid_for(cuda, rows * warp_lanes, row_threads), row_threads, 0, cuda.stream>>>(dout, out, dots);
  check_launch("sorted_attention: products of rows");
  with_sorted_tiles<T>(in.q.width, [&]<class Tiles>(Tiles) { run_rounds<Tiles>(cuda, arguments); });
  write_gradients<T>
      <<<grid_for(cuda, values, row_threads), row_threads, 0, cuda.stream>>>(sequences, arguments, gradients);
  check_launch("sorted_attention: gradients");
}

#define INSTANTIATE(T)                                                                          \
  template void sorted_attention_backward<T>(                                                   \
      Cuda&, const Sequences&, const AttentionInputs<T>&, const SortedOptions&, Heads<const T>, \
      const WeightSums<const Accumulate<T>>&, Heads<const T>, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
