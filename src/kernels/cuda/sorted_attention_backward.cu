// Attention along a sort, backward: in each round one pass of blocks owns tiles of queries (dq), another tiles
// of keys (dk, dv), and both compute the weights again. Shares of sampled keys are summed over pieces of the
// sequence, and then by the first slot that drew a key. Deterministic. Cost for each query and key of a tile: 7
// x width multiply-adds and two exponentials.
#include "kernels/cuda/sorted_method.cuh"

namespace tern::kernels {
namespace {

constexpr int row_threads = 256;

/// Sequences have pieces of sample_queries tokens; this numbers those of a batch without gaps that matter.
__device__ std::int64_t first_piece(int begin, int sequence) { return begin / sample_queries + sequence; }
std::int64_t most_pieces(const Sequences& sequences) {
  return sequences.tokens / sample_queries + sequences.count + 1;
}

/// Block: a tile of a sequence's queries, or of its keys in a sorted round.
template <class T, class Method, bool keys_resident>
__global__ void __launch_bounds__(Method::threads, Method::blocks)
    differentiate_sorted(const __grid_constant__ SortedBackward<T> in) {
  extern __shared__ __align__(128) std::byte shared[];
  const SortedPass<T>& pass = in.pass;
  const int heads = pass.in.q.heads, block = static_cast<int>(blockIdx.x);
  const SequencePart part = find_part(pass.sequences, block / (heads * pass.chunks), Method::rows);
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
  const SequencePart part = find_part(pass.sequences, block / heads, sample_queries);
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
  const Scratch<Accumulate<T>> sums_of_rounds(cuda, 3 * values), dots(cuda, rows);
  const SortedBackward<T> arguments{
      .pass = {sequences, in, options, 0, 1, have_packs(in.q, in.k, in.v) && have_packs(dout)},
      .dout = dout,
      .sums = sums,
      .dots = dots.data(),
      .dq = sums_of_rounds.data(),
      .dk = sums_of_rounds.data() + values,
      .dv = sums_of_rounds.data() + 2 * values};
  multiply_rows<T>
      <<<grid_for(cuda, rows * warp_lanes, row_threads), row_threads, 0, cuda.stream>>>(dout, out, dots.data());
  check_launch("sorted_attention: products of rows");
  with_sorted_method<T, 3>(in.q.width, [&]<class Method>(Method) { run_rounds<Method>(cuda, arguments); });
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
