// Exact attention in float32 and float64, forward and backward, without tensor cores unless tf32 is asked for,
// with online softmax (Dao et al. 2022, arXiv 2205.14135) or the weights of YOSO's expected form.
// Deterministic: one pass of blocks owns queries (dq), another owns keys (dk, dv), and both compute the weights
// again. Heads wider than 64 (float64: 32) are summed by one block for each 64 columns, which computes the
// weights for itself.
//
// Cost for each pair of tokens and head: 2 (forward) + 7 (backward) x width multiply-adds, and in each of the
// three passes an exponential or a square root and, with dropout, a sixteenth of a Philox block. Memory: one
// number for each token and head.
#include "base/cuda_path.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention_simt_kernels.cuh"
#include "kernels/cuda/bernoulli_expectation.h"

namespace tern::kernels {
namespace {

/// dots[head, token] = sum_c a[token, head, c] b[token, head, c].
template <class T>
__global__ void multiply_rows(Heads<const T> a, Heads<const T> b, T* dots) {
  const std::int64_t rows = a.tokens * a.heads;
  const int lane = static_cast<int>(threadIdx.x) % 8;
  for (std::int64_t row = thread_index() / 8; row - row % 4 < rows; row += grid_threads() / 8) {
    const std::int64_t token = row / a.heads;
    const int head = static_cast<int>(row % a.heads);
    T sum = 0;
    if (row < rows)
      for (int c = lane; c < a.width; c += 8) sum += row_of(a, token, head)[c] * row_of(b, token, head)[c];
    sum = warp_sum(sum, 8);
    if (lane == 0 && row < rows) dots[head * a.tokens + token] = sum;
  }
}

template <class Kernel>
void allow_shared_memory(Kernel kernel, std::size_t bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "attention: shared memory");
}

template <class Tiles>
unsigned blocks_of(const Sequences& sequences, int heads, const SimtShape& shape) {
  const std::int64_t blocks = most_parts(sequences, Tiles::rows) * heads * shape.chunks;
  require(blocks < std::int64_t{1} << 31,
          "attention: tokens / {} x heads must lie below 2^31, got {} tokens and {} heads; use smaller batches",
          Tiles::rows, sequences.tokens, heads);
  return static_cast<unsigned>(blocks);
}

template <class Tiles, class Score>
void forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<typename Tiles::Value>& in,
             const Score& score, const Heads<typename Tiles::Value>& out) {
  const SimtShape shape = shape_of<Tiles>(in.q.width, in.q, in.k, in.v, out);
  constexpr std::size_t bytes = SimtForwardMemory<Tiles>::bytes;
  const auto kernel = attend_simt<Score, Tiles>;
  allow_shared_memory(kernel, bytes);
  kernel<<<blocks_of<Tiles>(sequences, in.q.heads, shape), Tiles::threads, bytes, cuda.stream>>>(
      sequences, in, score, out, shape);
  check_launch("attention forward");
}

template <class Tiles, bool keys_resident, class Score>
void backward_pass(Cuda& cuda, const Sequences& sequences, const SimtBackward<typename Tiles::Value>& arguments,
                   const Score& score) {
  const auto& [in, dout, out] = arguments;
  const SimtShape shape = shape_of<Tiles>(in.q.width, in.q, in.k, in.v, dout, out.dq, out.dk, out.dv);
  constexpr std::size_t bytes = SimtBackwardMemory<Tiles>::bytes;
  const auto kernel = differentiate_simt<Score, Tiles, keys_resident>;
  allow_shared_memory(kernel, bytes);
  kernel<<<blocks_of<Tiles>(sequences, in.q.heads, shape), Tiles::threads, bytes, cuda.stream>>>(
      sequences, arguments, score, shape);
  check_launch(keys_resident ? "attention backward of keys" : "attention backward of queries");
}

// Tile sizes: the fastest of those whose sums stay in registers, measured on an H100.
template <class T, int columns>
struct SimtChoice {
  using Forward = SimtTiles<T, columns, 1, 1>;
  using Queries = Forward;
  using Keys = Forward;
};
template <>
struct SimtChoice<float, 32> {
  using Forward = SimtTiles<float, 32, 2, 1, 3>;
  using Queries = SimtTiles<float, 32, 2, 1>;
  using Keys = Queries;
};
template <>
struct SimtChoice<float, 64> {
  using Forward = SimtTiles<float, 64, 2, 2>;
  using Queries = SimtTiles<float, 64, 1, 2>;
  using Keys = SimtTiles<float, 64, 1, 2>;
};
template <int columns>
struct Tf32Choice {
  using Forward = Tf32Tiles<columns, 2, 2>;
  using Queries = Tf32Tiles<columns, 1, 2>;
  using Keys = Tf32Tiles<columns, 1, 2>;
};
template <>
struct Tf32Choice<32> {
  using Forward = Tf32Tiles<32, 1, 3>;
  using Queries = Tf32Tiles<32, 1, 3>;
  using Keys = Tf32Tiles<32, 2, 2>;
};

/// Calls run(tile sizes) with those that suit the head's width.
template <class T, class Run>
void with_tiles(const Cuda& cuda, int width, Run run) {
  if constexpr (std::is_same_v<T, double>) {
    run(SimtChoice<double, 32>{});
  } else if (cuda.options.tf32) {
    width <= 32 ? run(Tf32Choice<32>{}) : run(Tf32Choice<64>{});
  } else {
    width <= 32 ? run(SimtChoice<float, 32>{}) : run(SimtChoice<float, 64>{});
  }
}

/// Notes which kernels serve `function`, as with_tiles() chooses them.
template <class T>
void log_forward(const Cuda& cuda, const char* function, int width) {
  if (std::is_same_v<T, double>) return log_path(function, width, "plain arithmetic", "float64");
  if (cuda.options.tf32) return log_path(function, width, "mma.sync", "tf32");
  log_path(function, width, "plain arithmetic", "float32");
}

template <class T, class Score>
void attend(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in, const Score& score,
            const Heads<T>& out) {
  if (sequences.tokens == 0) return;
  with_tiles<T>(cuda, in.q.width, [&]<class Choice>(Choice) {
    forward<typename Choice::Forward>(cuda, sequences, in, score, out);
  });
}

template <class T, class Score>
void differentiate(Cuda& cuda, const Sequences& sequences, const SimtBackward<T>& arguments,
                   const Score& score) {
  with_tiles<T>(cuda, arguments.in.q.width, [&]<class Choice>(Choice) {
    backward_pass<typename Choice::Queries, false>(cuda, sequences, arguments, score);
    backward_pass<typename Choice::Keys, true>(cuda, sequences, arguments, score);
  });
}

template <class T>
SoftmaxScore<T> softmax_score(const SoftmaxOptions& options, std::int64_t tokens) {
  const std::uint32_t threshold = weight_dropout_threshold(options.dropout.rate);
  return {.scale = options.scale,
          .lse_out = nullptr,
          .tokens = tokens,
          .dropout = options.dropout,
          .threshold = threshold,
          .keep_factor = static_cast<T>(256.0 / (256.0 - threshold))};
}

}  // namespace

template <class T>
void softmax_attention_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SoftmaxOptions& options, Heads<T> out, Accumulate<T>* lse) {
  SoftmaxScore<T> score = softmax_score<T>(options, in.q.tokens);
  score.lse_out = lse;
  log_forward<T>(cuda, "exact attention", in.q.width);
  attend<T>(cuda, sequences, in, score, out);
}

template <class T>
void softmax_attention_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                const SoftmaxOptions& options, const SoftmaxResult<T>& result,
                                Heads<const T> dout, const AttentionGradients<T>& gradients) {
  if (sequences.tokens == 0) return;
  const Scratch<T> dots(cuda, in.q.heads * in.q.tokens);
  constexpr int threads = 256;
  multiply_rows<T><<<grid_for(cuda, in.q.heads * in.q.tokens * 8, threads), threads, 0, cuda.stream>>>(
      dout, result.out, dots.data());
  check_launch("attention: products of rows");
  SoftmaxScore<T> score = softmax_score<T>(options, in.q.tokens);
  score.lse = result.lse;
  score.dots = dots.data();
  differentiate<T>(cuda, sequences, {in, dout, gradients}, score);
}

template <class T>
void expect_values(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                   const BernoulliOptions& options, Heads<T> y, Heads<Accumulate<T>> norm) {
  log_forward<T>(cuda, "YOSO's expectation", in.q.width);
  attend<T>(cuda, sequences, in, BernoulliScore<T>{options.bits, options.gradient}, y);
  if (norm.data != nullptr) unit_rows_forward<T>(cuda, read_only(y), y, norm);
}

template <class T>
void differentiate_expectation(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                               const BernoulliOptions& options, const InputLengths<T>& lengths,
                               Heads<const T> dy, const AttentionGradients<T>& gradients) {
  if (sequences.tokens == 0) return;
  differentiate<T>(cuda, sequences, {in, dy, gradients}, BernoulliScore<T>{options.bits, options.gradient});
  pass_scaling(cuda, in, lengths, gradients);
}

#define INSTANTIATE(T)                                                                                        \
  template void softmax_attention_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,              \
                                             const SoftmaxOptions&, Heads<T>, Accumulate<T>*);                \
  template void softmax_attention_backward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,             \
                                              const SoftmaxOptions&, const SoftmaxResult<T>&, Heads<const T>, \
                                              const AttentionGradients<T>&);                                  \
  template void expect_values<T>(Cuda&, const Sequences&, const AttentionInputs<T>&, const BernoulliOptions&, \
                                 Heads<T>, Heads<Accumulate<T>>);                                             \
  template void differentiate_expectation<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,              \
                                             const BernoulliOptions&, const InputLengths<T>&, Heads<const T>, \
                                             const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
