// Attention along a sort, forward: rounds follow one another, and a block owns a tile of queries of one round.
// The sums of weighted values, the largest logit and the sum of the weights of each query lie in memory between
// rounds. Deterministic. Cost for each query and key of a tile: 2 x width multiply-adds and an exponential.
#include "kernels/cuda/sorted_attention_rows.cuh"
#include "kernels/cuda/sorted_method.cuh"

namespace tern::kernels {
namespace {

/// Block: a tile of a sequence's queries in one head and round, and a chunk of the width.
template <class T, class Method>
__global__ void __launch_bounds__(Method::threads, Method::blocks)
    attend_sorted(const __grid_constant__ SortedPass<T> pass, SortedState<Accumulate<T>> state) {
  extern __shared__ __align__(128) std::byte shared[];
  const int heads = pass.in.q.heads, block = static_cast<int>(blockIdx.x);
  const SequencePart part = find_part(pass.sequences, RowCut{Method::rows}, block / (heads * pass.chunks));
  if (part.sequence < 0) return;
  const int head = block % (heads * pass.chunks) / pass.chunks, chunk = block % pass.chunks;
  const int last = min(part.first + Method::rows, part.length);
  SortedRound<T> round(pass, part, head);
  Method::attend(pass, state, round,
                 {head, chunk * Method::columns, part.first, last, round.keys_of(part.first, last)}, shared);
}

/// out = sums / total, with zeros outside all sequences.
template <class T, int items>
__global__ void __launch_bounds__(row_threads)
    divide_rows(Sequences sequences, const Accumulate<T>* rows, const Accumulate<T>* top,
                const Accumulate<T>* total, Heads<T> out, WeightSums<Accumulate<T>> sums) {
  using A = Accumulate<T>;
  const int real = sequences.offsets[sequences.count];
  visit_rows(out.tokens, out.heads, [&](std::int64_t token, int head, std::int64_t row) {
    if (token >= out.tokens) return;
    const bool exists = token < real;
    const std::int64_t place = head * sequences.tokens + token;
    const A inverse = exists ? A{1} / total[place] : A{0};
    visit_packs<items>(out.width, [&](int column) {
      Pack<T, items> pack{};
      if (exists) {
        const Pack<A, items> values = load_pack<items>(rows + row * out.width + column);
#pragma unroll
        for (int i = 0; i < items; ++i) pack.item[i] = from_accumulate<T>(values.item[i] * inverse);
      }
      store_pack(row_of(out, token, head) + column, pack);
    });
    if (threadIdx.x % row_lanes != 0) return;
    sums.top[place] = exists ? top[place] : A{0};
    sums.inverse[place] = inverse;
  });
}

template <class Method, class T>
void run_rounds(Cuda& cuda, SortedPass<T> pass, Heads<T> out, const WeightSums<Accumulate<T>>& sums) {
  using A = Accumulate<T>;
  void (*const kernel)(SortedPass<T>, SortedState<A>) = attend_sorted<T, Method>;
  const int heads = pass.in.q.heads, width = pass.in.q.width;
  const std::size_t bytes = Method::forward_bytes(pass.options.rounds);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "sorted_attention: shared memory");
  pass.chunks = (width + Method::columns - 1) / Method::columns;
  const std::int64_t blocks = most_parts(pass.sequences, Method::rows) * heads * pass.chunks;
  require(blocks < std::int64_t{1} << 31,
          "sorted_attention: tokens / {} x heads must lie below 2^31, got {} tokens and {} heads; use smaller "
          "batches",
          Method::rows, pass.sequences.tokens, heads);
  const std::int64_t rows = pass.sequences.tokens * heads;
  const Scratch<A> state(cuda, 4 * rows), rows_of_sums(cuda, rows * width);
  const int rounds = pass.options.rounds + (pass.options.samples > 0 ? 1 : 0);
  A *old_state = state.data(), *new_state = old_state + 2 * rows;
  for (int round = 0; round < rounds; ++round) {
    pass.round = round;
    kernel<<<static_cast<unsigned>(blocks), Method::threads, bytes, cuda.stream>>>(
        pass, {old_state, old_state + rows, new_state, new_state + rows, rows_of_sums.data()});
    check_launch("sorted_attention");
    std::swap(old_state, new_state);
  }
  with_pack(
      [&]<int items>(std::integral_constant<int, items>) {
        divide_rows<T, items><<<row_grid(cuda, out), row_threads, 0, cuda.stream>>>(
            pass.sequences, rows_of_sums.data(), old_state, old_state + rows, out, sums);
      },
      out);
  check_launch("sorted_attention: division");
}

}  // namespace

template <class T>
void sorted_attention_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                              const SortedOptions& options, Heads<T> out,
                              const WeightSums<Accumulate<T>>& sums) {
  if (sequences.tokens == 0 || in.q.heads == 0) return;
  const SortedPass<T> pass{sequences, in, options, 0, 1, have_packs(in.q, in.k, in.v)};
  with_sorted_method<T, 4>(in.q.width,
                           [&]<class Method>(Method) { run_rounds<Method>(cuda, pass, out, sums); });
}

#define INSTANTIATE(T)                                                                          \
  template void sorted_attention_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&, \
                                            const SortedOptions&, Heads<T>, const WeightSums<Accumulate<T>>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
