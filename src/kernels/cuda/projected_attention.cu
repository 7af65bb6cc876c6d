// Attention to projected rows in bfloat16: the kernels of exact attention for mma.sync, whose keys are rows of
// the sequence's own. Cost for each token, head and row: 4 (forward) + 14 (backward) x width flops, and the
// keys and values in bfloat16 for the time of a call.
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/projected_attention.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// to[s, row, h, c] = from[s, h, row, c]: the heads of a row beside one another, as those of a token.
__global__ void __launch_bounds__(threads_per_block)
    round_rows(const float* from, std::int64_t count, int heads, int rows, int width, bfloat16* to) {
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t place = i / width;
    const int head = static_cast<int>(place % heads), row = static_cast<int>(place / heads % rows);
    const std::int64_t sequence = place / heads / rows;
    to[i] = from_accumulate<bfloat16>(from[((sequence * heads + head) * rows + row) * width + i % width]);
  }
}

/// The rounded rows and the task that reads them.
class ProjectedTask {
 public:
  ProjectedTask(Cuda& cuda, const Sequences& sequences, const ProjectedInputs<bfloat16>& in)
      : count_(sequences.count * in.q.heads * in.rows * in.q.width), rows_(cuda, 2 * padded()) {
    const auto rounded = [&](const float* from, bfloat16* to) {
      round_rows<<<grid_for(cuda, count_, threads_per_block), threads_per_block, 0, cuda.stream>>>(
          from, count_, in.q.heads, in.rows, in.q.width, to);
      check_launch("projected_attention: rounding");
      return Heads<const bfloat16>{
          to,        sequences.count * in.rows, in.q.heads, in.q.width, std::int64_t{in.q.heads} * in.q.width,
          in.q.width};
    };
    task_ = {Scores::softmax,
             score_rule(SoftmaxOptions{}),
             sequences,
             {in.q, rounded(in.keys, rows_.data()), rounded(in.values, rows_.data() + padded())},
             {in.rows, in.limited}};
  }
  const AttentionTask& task() const { return task_; }

 private:
  std::int64_t padded() const { return (count_ + 7) / 8 * 8; }  // values begin at a multiple of 16 bytes
  std::int64_t count_;
  Scratch<bfloat16> rows_;
  AttentionTask task_{};
};

}  // namespace

bool projected_attention_forward(Cuda& cuda, const Sequences& sequences, const ProjectedInputs<bfloat16>& in,
                                 Heads<bfloat16> y, float* lse) {
  if (in.q.width > widest_head) return false;
  if (sequences.tokens == 0 || in.q.heads == 0) return true;
  launch_attention_forward(cuda, ProjectedTask(cuda, sequences, in).task(), y, lse);
  return true;
}

void projected_attention_backward(Cuda& cuda, const Sequences& sequences, const ProjectedInputs<bfloat16>& in,
                                  const SoftmaxResult<bfloat16>& result, Heads<const bfloat16> dy,
                                  const ProjectedGradients<bfloat16>& out) {
  const std::int64_t entries = sequences.count * in.q.heads * in.rows * in.q.width;
  if (entries == 0) return;
  if (sequences.tokens == 0) {
    for (float* const x : {out.dkeys, out.dvalues})
      check_cuda(cudaMemsetAsync(x, 0, static_cast<std::size_t>(entries) * sizeof(float), cuda.stream),
                 "projected_attention");
    return;
  }
  const ProjectedTask rounded(cuda, sequences, in);
  const Scratch<QueryStatistics> statistics(cuda, in.q.heads * sequences.tokens);
  launch_query_gradient(cuda, rounded.task(), result, dy, out.dq, statistics.data());
  launch_key_gradient(cuda, rounded.task(), statistics.data(), dy, out.dkeys, out.dvalues);
}

}  // namespace tern::kernels
