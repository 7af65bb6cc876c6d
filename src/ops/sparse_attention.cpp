// Exact attention over the pairs of a pattern.
#include "kernels/sparse_attention.h"

#include "ops/attention_inputs.h"

namespace tern {
namespace {

void require_pattern(const AttentionPattern& pattern) {
  require(pattern.block > 0, "sparse_attention: blocks must have at least one token, got {}", pattern.block);
  require(pattern.global >= 0 && pattern.random_blocks >= 0,
          "sparse_attention: global tokens and random blocks must not be negative, got {} and {}",
          pattern.global, pattern.random_blocks);
}

template <class T>
kernels::AttentionInputs<T> inputs_of(const AttentionTensors& t) {
  return {heads_of<const T>(t.q), heads_of<const T>(t.k), heads_of<const T>(t.v)};
}

}  // namespace

SparseAttention sparse_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const SequenceLayout& layout, const AttentionPattern& pattern, double scale) {
  require_pattern(pattern);
  const AttentionTensors inputs = attention_inputs("sparse_attention", q, k, v, layout);
  const Tensor y = empty(v.shape(), v.dtype(), v.device()), log_sums = empty_sums({q.size(0), q.size(1)}, q);
  const kernels::SparseOptions options{pattern, scale};
  dispatch(q, [&]<class T>(auto& device, Type<T>) {
    kernels::sparse_attention_forward<T>(device, sequences_of(layout), inputs_of<T>(inputs), options,
                                         heads_of<T>(y), log_sums.data<Accumulate<T>>());
  });
  const Tensor parts[] = {q, k, v};
  const auto results = record(
      "sparse_attention", {y, log_sums}, parts, [=](std::span<const Tensor> gradients, GradientSink& sink) {
        const Tensor dy =
            gradients[0].defined() ? with_unit_width(gradients[0]) : zeros(y.shape(), y.dtype(), y.device());
        const Tensor dlog_sums = gradients[1].defined() ? contiguous_constant(gradients[1]) : Tensor();
        const AttentionTensors d = attention_gradients(inputs);
        dispatch(dy, [&]<class T>(auto& device, Type<T>) {
          using A = Accumulate<T>;
          kernels::sparse_attention_backward<T>(device, sequences_of(layout), inputs_of<T>(inputs), options,
                                                {heads_of<const T>(y), log_sums.data<A>()},
                                                {heads_of<const T>(dy), data_or_null<A>(dlog_sums)},
                                                {heads_of<T>(d.q), heads_of<T>(d.k), heads_of<T>(d.v)});
        });
        add_attention_gradients(d, sink);
      });
  return {results[0], results[1]};
}

}  // namespace tern
