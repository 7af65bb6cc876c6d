// Attention along a sort, backward: in each round one pass of blocks owns tiles of queries (dq), another tiles
// of keys (dk, dv), and both compute the weights again. Shares of sampled keys are summed over pieces of the
// sequence, and then by the first slot that drew a key. Deterministic. Cost for each query and key of a tile: 7
// x width multiply-adds and two exponentials.
#include "kernels/cuda/sorted_attention_rows.cuh"
#include "kernels/cuda/sorted_method.cuh"

namespace tern::kernels {
namespace {

/// Sequences have pieces of sample_queries tokens; this numbers those of a batch without gaps that matter.
__device__ std::int64_t first_piece(int begin, int sequence) { return begin / sample_queries + sequence; }
std::int64_t most_pieces(const Sequences& sequences) {
  return sequences.tokens / sample_queries + sequences.count + 1;
}

/// Block: a tile of a sequence's queries, or of its keys in a sorted round.
template <class T, class Method, bool keys_resident>
__global__ void __launch_bounds__(Method::threads, keys_resident ? Method::blocks : Method::query_blocks)
    differentiate_sorted(const __grid_constant__ SortedBackward<T> in) {
  extern __shared__ __align__(128) std::byte shared[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, block = static_cast<int>(blockIdx.x);
  const SequencePart part = find_part(pass.sequences, RowCut{Method::rows}, block / (heads * pass.chunks));
  if (part.sequence < 0) return;
  const int head = block % (heads * pass.chunks) / pass.chunks;
  SortedRound<T> round(pass, part, head);
  const int last = min(part.first + Method::rows, part.length);
  const PlaceRanges streamed =
      keys_resident ? round.queries_of(part.first, last) : round.keys_of(part.first, last);
  Method::template differentiate<keys_resident>(
      in, round, {head, block % pass.chunks * Method::columns, part.first, last, streamed}, shared);
}

/// Block: a tile of the sampled keys of a sequence and head, and a piece of its queries.
template <class T, class Method>
__global__ void __launch_bounds__(Method::threads, Method::blocks)
    differentiate_samples(const __grid_constant__ SortedBackward<T> in) {
  extern __shared__ __align__(128) std::byte shared[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, samples = pass.options.samples,
            tiles = (samples + Method::rows - 1) / Method::rows;
  int block = static_cast<int>(blockIdx.x);
  const int column = block % pass.chunks * Method::columns;
  block /= pass.chunks;
  const int first = block % tiles * Method::rows;
  block /= tiles;
  const int head = block % heads;
  const SequencePart part = find_part(pass.sequences, RowCut{sample_queries}, block / heads);
  if (part.sequence < 0) return;
  SortedRound<T> round(pass, part, head);
  if (round.samples() == 0) return;
  const std::int64_t piece = first_piece(part.begin, part.sequence) + part.first / sample_queries;
  const PlaceRanges streamed{{part.first, 0}, {min(part.first + sample_queries, part.length), 0}};
  Method::template differentiate<true>(in, round,
                                       {head, column, first, min(first + Method::rows, samples), streamed,
                                        (piece * heads + head) * samples + first},
                                       shared);
}

constexpr int block_slots = 4 * row_threads / warp_lanes;  ///< of one block that adds shares of sampled keys

/// visit(other), by a whole warp, for the slots from `slot` on that drew its key, in their order.
template <class Visit>
__device__ __forceinline__ void visit_draws(const int* drawn, int slot, int samples, const Visit& visit) {
  const int key = drawn[slot];
  for (int first = slot; first < samples; first += warp_lanes) {
    const int other = first + static_cast<int>(threadIdx.x) % warp_lanes;
    unsigned found = __ballot_sync(0xFFFFFFFFu, other < samples && drawn[other] == key);
    for (; found != 0; found &= found - 1) visit(first + __ffs(static_cast<int>(found)) - 1);
  }
}

/// sum[i] += values[i][p * stride] for p = 0 .. count - 1, in this order; several are under way at once.
template <class A>
__device__ __forceinline__ void add_pieces(const A* const (&values)[2], std::int64_t stride, int count,
                                           A (&sum)[2]) {
  constexpr int together = 4;
#pragma unroll 1
  for (int first = 0; first < count; first += together) {
    A value[together][2];
#pragma unroll
    for (int u = 0; u < together; ++u)
      for (int i = 0; i < 2; ++i) value[u][i] = first + u < count ? values[i][(first + u) * stride] : A{0};
#pragma unroll
    for (int u = 0; u < together; ++u)
      for (int i = 0; i < 2; ++i) sum[i] += value[u][i];
  }
}

/// Block: block_slots slots of a sequence and head. A warp takes slots; the first slot that drew a key adds the
/// shares of all that did.
template <class T>
__global__ void __launch_bounds__(row_threads, 4) add_samples(SortedBackward<T> in) {
  using A = Accumulate<T>;
  extern __shared__ int drawn[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, width = pass.in.q.width, samples = pass.options.samples;
  const int parts = (samples + block_slots - 1) / block_slots, block = static_cast<int>(blockIdx.x);
  const int sequence = block / parts / heads, head = block / parts % heads;
  const int begin = pass.sequences.offsets[sequence], length = pass.sequences.offsets[sequence + 1] - begin;
  if (length == 0 || pass.options.samples_of(length) == 0) return;
  for (int slot = static_cast<int>(threadIdx.x); slot < samples; slot += row_threads)
    drawn[slot] = sampled_key(pass.options.stream, pass.sequences.sample[sequence], head, slot, length);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            pieces = (length + sample_queries - 1) / sample_queries;
  const std::int64_t row = (first_piece(begin, sequence) * heads + head) * samples,
                     stride = static_cast<std::int64_t>(heads) * samples * width;
  const int first = block % parts * block_slots, last = min(first + block_slots, samples);
  for (int slot = first + static_cast<int>(threadIdx.x) / warp_lanes; slot < last;
       slot += row_threads / warp_lanes) {
    bool is_first = true;
    for (int other = lane; other < slot; other += warp_lanes) is_first &= drawn[other] != drawn[slot];
    if (!__all_sync(0xFFFFFFFFu, is_first)) continue;
    for (int c = lane; c < width + lane; c += warp_lanes) {
      const bool exists = c < width;
      const std::int64_t at = (std::int64_t{begin + drawn[slot]} * heads + head) * width + c;
      const A dk = exists ? in.dk[at] : A{0}, dv = exists ? in.dv[at] : A{0};
      A sum[2] = {};
      visit_draws(drawn, slot, samples, [&](int other) {
        const std::int64_t from = (row + other) * width + c;
        if (exists) add_pieces({in.slot_dk + from, in.slot_dv + from}, stride, pieces, sum);
      });
      if (!exists) continue;
      in.dk[at] = dk + sum[0];
      in.dv[at] = dv + sum[1];
    }
  }
}

/// dots[head, token] = sum_c dout out.
template <class T, int items>
__global__ void __launch_bounds__(row_threads)
    multiply_rows(Heads<const T> dout, Heads<const T> out, Accumulate<T>* dots) {
  visit_rows(out.tokens, out.heads, [&](std::int64_t token, int head, std::int64_t) {
    const bool exists = token < out.tokens;
    Accumulate<T> sum = 0;
    if (exists)
      visit_packs<items>(out.width, [&](int column) {
        const Pack<T, items> a = load_pack<items>(row_of(dout, token, head) + column),
                             b = load_pack<items>(row_of(out, token, head) + column);
#pragma unroll
        for (int i = 0; i < items; ++i) sum += to_accumulate(a.item[i]) * to_accumulate(b.item[i]);
      });
    sum = warp_sum(sum, row_lanes);
    if (exists && threadIdx.x % row_lanes == 0) dots[head * out.tokens + token] = sum;
  });
}

/// The three gradients, with zeros outside all sequences.
template <class T, int items>
__global__ void __launch_bounds__(row_threads)
    write_gradients(Sequences sequences, SortedBackward<T> in, AttentionGradients<T> out) {
  const int real = sequences.offsets[sequences.count];
  const auto write = [&](const Accumulate<T>* sums, T* to, bool exists) {
    Pack<T, items> pack{};
    if (exists) {
      const Pack<Accumulate<T>, items> values = load_pack<items>(sums);
#pragma unroll
      for (int i = 0; i < items; ++i) pack.item[i] = from_accumulate<T>(values.item[i]);
    }
    store_pack(to, pack);
  };
  visit_rows(sequences.tokens, out.dq.heads, [&](std::int64_t token, int head, std::int64_t row) {
    if (token >= sequences.tokens) return;
    visit_packs<items>(out.dq.width, [&](int column) {
      const std::int64_t at = row * out.dq.width + column;
      write(in.dq + at, row_of(out.dq, token, head) + column, token < real);
      write(in.dk + at, row_of(out.dk, token, head) + column, token < real);
      write(in.dv + at, row_of(out.dv, token, head) + column, token < real);
    });
  });
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

template <class Method, class T>
void run_rounds(Cuda& cuda, SortedBackward<T> in) {
  using A = Accumulate<T>;
  SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, width = pass.in.q.width, samples = pass.options.samples,
            rounds = pass.options.rounds;
  pass.chunks = (width + Method::columns - 1) / Method::columns;
  const std::int64_t tiles = most_parts(pass.sequences, Method::rows) * heads * pass.chunks;
  const std::size_t query_bytes = Method::template backward_bytes<false>(rounds),
                    key_bytes = Method::template backward_bytes<true>(rounds);
  for (int round = 0; round < rounds + (samples > 0 ? 1 : 0); ++round) {
    pass.round = round;
    launch(cuda, differentiate_sorted<T, Method, false>, tiles, Method::threads, query_bytes, in);
    if (round < rounds)
      launch(cuda, differentiate_sorted<T, Method, true>, tiles, Method::threads, key_bytes, in);
  }
  if (samples == 0) return;
  const Scratch<A> slots(cuda, 2 * most_pieces(pass.sequences) * heads * samples * width);
  in.slot_dk = slots.data();
  in.slot_dv = slots.data() + most_pieces(pass.sequences) * heads * samples * width;
  const std::int64_t blocks = most_parts(pass.sequences, sample_queries) * heads *
                              ((samples + Method::rows - 1) / Method::rows) * pass.chunks;
  launch(cuda, differentiate_samples<T, Method>, blocks, Method::threads, key_bytes, in);
  launch(cuda, add_samples<T>, pass.sequences.count * heads * ((samples + block_slots - 1) / block_slots),
         row_threads, sizeof(int) * static_cast<std::size_t>(samples), in);
}

}  // namespace

template <class T>
void sorted_attention_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SortedOptions& options, Heads<const T> out,
                               const WeightSums<const Accumulate<T>>& sums, Heads<const T> dout,
                               const AttentionGradients<T>& gradients) {
  if (sequences.tokens == 0 || in.q.heads == 0) return;
  const std::int64_t rows = sequences.tokens * in.q.heads, values = rows * in.q.width;
  const Scratch<Accumulate<T>> sums_of_rounds(cuda, 3 * values), dots(cuda, rows);
  const SortedBackward<T> arguments{
      .pass = {sequences, in, options, 0, 1, have_packs(in.q, in.k, in.v) && have_packs(dout)},
      .dout = dout,
      .sums = sums,
      .dots = dots.data(),
      .dq = sums_of_rounds.data(),
      .dk = sums_of_rounds.data() + values,
      .dv = sums_of_rounds.data() + 2 * values};
  with_pack(
      [&]<int items>(std::integral_constant<int, items>) {
        multiply_rows<T, items><<<row_grid(cuda, out), row_threads, 0, cuda.stream>>>(dout, out, dots.data());
      },
      dout, out);
  check_launch("sorted_attention: products of rows");
  with_sorted_method<T, 3>(in.q.width, [&]<class Method>(Method) { run_rounds<Method>(cuda, arguments); });
  with_pack(
      [&]<int items>(std::integral_constant<int, items>) {
        write_gradients<T, items>
            <<<row_grid(cuda, gradients.dq), row_threads, 0, cuda.stream>>>(sequences, arguments, gradients);
      },
      gradients.dq, gradients.dk, gradients.dv);
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
