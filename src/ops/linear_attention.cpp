// Attention whose weights are products of elu + 1.
#include "kernels/linear_attention.h"

#include "ops/attention_inputs.h"

namespace tern {
namespace {

template <class T>
kernels::AttentionInputs<T> inputs_of(const AttentionTensors& t) {
  return {heads_of<const T>(t.q), heads_of<const T>(t.k), heads_of<const T>(t.v)};
}

}  // namespace

Tensor linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                        double epsilon) {
  require(epsilon >= 0, "linear_attention: epsilon must be at least 0, got {}", epsilon);
  const AttentionTensors inputs = attention_inputs("linear_attention", q, k, v, layout);
  const Tensor y = empty(v.shape(), v.dtype(), v.device());
  bool is_done = false;
  dispatch(q, [&]<class T>(auto& device, Type<T>) {
    is_done = kernels::linear_attention_forward(device, sequences_of(layout), inputs_of<T>(inputs), epsilon,
                                                heads_of<T>(y));
  });
  if (!is_done) return feature_attention(elu_plus_one(q), elu_plus_one(k), v, layout, epsilon);
  return record("linear_attention", y, {q, k, v}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient);
    const AttentionTensors d{empty_like(y), empty_like(y), empty_like(y)};
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::linear_attention_backward(
          device, sequences_of(layout), inputs_of<T>(inputs), epsilon, heads_of<const T>(y),
          heads_of<const T>(dy),
          kernels::AttentionGradients<T>{heads_of<T>(d.q), heads_of<T>(d.k), heads_of<T>(d.v)});
    });
    add_attention_gradients(d, sink);
  });
}

}  // namespace tern
