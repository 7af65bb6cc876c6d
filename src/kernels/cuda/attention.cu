// Entry points of bfloat16 attention: the kernels for sm_90a where they serve, else those for mma.sync.
#include "base/cuda_path.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/bernoulli_expectation.h"

namespace tern::kernels {
namespace {

AttentionTask softmax_task(const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                           const SoftmaxOptions& options) {
  const bool drops = weight_dropout_threshold(options.dropout.rate) > 0;
  return {drops ? Scores::dropped_softmax : Scores::softmax, score_rule(options), sequences, in};
}
AttentionTask bernoulli_task(const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                             const BernoulliOptions& options) {
  return {Scores::bernoulli, score_rule(options), sequences, in};
}

void log_forward(const char* function, int width, bool is_hopper) {
  log_path(function, width, is_hopper ? "wgmma, sm_90a" : "mma.sync");
}

}  // namespace

template <>
void softmax_attention_forward<bfloat16>(Cuda& cuda, const Sequences& sequences,
                                         const AttentionInputs<bfloat16>& in, const SoftmaxOptions& options,
                                         Heads<bfloat16> out, float* lse) {
  const bool is_hopper = softmax_attention_forward_hopper(cuda, sequences, in, options, out, lse);
  log_forward("exact attention", in.q.width, is_hopper);
  if (!is_hopper) launch_attention_forward(cuda, softmax_task(sequences, in, options), out, lse);
}

template <>
void softmax_attention_backward<bfloat16>(Cuda& cuda, const Sequences& sequences,
                                          const AttentionInputs<bfloat16>& in, const SoftmaxOptions& options,
                                          const SoftmaxResult<bfloat16>& result, Heads<const bfloat16> dout,
                                          const AttentionGradients<bfloat16>& gradients) {
  if (softmax_attention_backward_hopper(cuda, sequences, in, options, result, dout, gradients)) return;
  const AttentionTask task = softmax_task(sequences, in, options);
  Scratch<QueryStatistics> statistics(cuda, in.q.heads * sequences.tokens);
  launch_query_gradient(cuda, task, result, dout, gradients.dq, statistics.data());
  launch_key_gradient(cuda, task, statistics.data(), dout, gradients.dk, gradients.dv);
}

template <>
void expect_values<bfloat16>(Cuda& cuda, const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                             const BernoulliOptions& options, Heads<bfloat16> y, Heads<float> norm) {
  const bool is_hopper = expect_values_hopper(cuda, sequences, in, options, y, norm);
  log_forward("YOSO's expectation", in.q.width, is_hopper);
  if (is_hopper) return;
  launch_attention_forward(cuda, bernoulli_task(sequences, in, options), y, nullptr);
  if (norm.data != nullptr) unit_rows_forward<bfloat16>(cuda, read_only(y), y, norm);
}

template <>
void differentiate_expectation<bfloat16>(Cuda& cuda, const Sequences& sequences,
                                         const AttentionInputs<bfloat16>& in, const BernoulliOptions& options,
                                         const InputLengths<bfloat16>& lengths, Heads<const bfloat16> dy,
                                         const AttentionGradients<bfloat16>& gradients) {
  if (differentiate_expectation_hopper(cuda, sequences, in, options, lengths, dy, gradients)) return;
  const AttentionTask task = bernoulli_task(sequences, in, options);
  launch_query_gradient(cuda, task, {}, dy, gradients.dq, nullptr);
  launch_key_gradient(cuda, task, nullptr, dy, gradients.dk, gradients.dv);
  pass_scaling(cuda, in, lengths, gradients);
}

}  // namespace tern::kernels
