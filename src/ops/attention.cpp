// Exact attention, and the expectation of Bernoulli-sampled attention: the tiled kernels behind one shape rule.
#include "kernels/attention.h"

#include "ops/attention_inputs.h"

namespace tern {
namespace {

template <class T>
kernels::AttentionInputs<T> inputs_of(const AttentionTensors& t) {
  return {heads_of<const T>(t.q), heads_of<const T>(t.k), heads_of<const T>(t.v)};
}
template <class T>
kernels::AttentionGradients<T> gradients_of(const AttentionTensors& d) {
  return {heads_of<T>(d.q), heads_of<T>(d.k), heads_of<T>(d.v)};
}

}  // namespace

Tensor softmax_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                         double scale, const DropoutOptions& options) {
  require_rate("softmax_attention", options.rate);
  const AttentionTensors inputs = attention_inputs("softmax_attention", q, k, v, layout);
  // the coordinates of a weight share one stream block (kernels::weight_dropout_block)
  require(
      options.rate == 0 || (layout.longest <= 1 << 26 && q.size(1) < 1 << 16),
      "softmax_attention: dropout of weights needs lengths up to 2^26 and less than 2^16 heads, got {} and {}",
      layout.longest, q.size(1));
  const Tensor out = empty(v.shape(), v.dtype(), v.device());
  const Tensor log_sums = empty_sums({q.size(1), q.size(0)}, q);
  const kernels::SoftmaxOptions settings{scale, {static_cast<float>(options.rate), options.stream}};
  dispatch(q, [&]<class T>(auto& device, Type<T>) {
    kernels::softmax_attention_forward<T>(device, sequences_of(layout), inputs_of<T>(inputs), settings,
                                          heads_of<T>(out), log_sums.data<Accumulate<T>>());
  });
  return record("softmax_attention", out, {q, k, v}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dout = with_unit_width(gradient);
    const AttentionTensors d = attention_gradients(inputs);
    dispatch(dout, [&]<class T>(auto& device, Type<T>) {
      kernels::softmax_attention_backward<T>(device, sequences_of(layout), inputs_of<T>(inputs), settings,
                                             {heads_of<const T>(out), log_sums.data<Accumulate<T>>()},
                                             heads_of<const T>(dout), gradients_of<T>(d));
    });
    add_attention_gradients(d, sink);
  });
}

Tensor bernoulli_expectation(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                             int bits, BernoulliGradient gradient, BernoulliRows rows) {
  require(bits >= 1 && bits <= 20, "bernoulli_expectation: bits must lie in [1, 20], got {}", bits);
  const AttentionTensors inputs = attention_inputs("bernoulli_expectation", q, k, v, layout);
  const bool is_unit = rows == BernoulliRows::unit;
  const Tensor out = empty(v.shape(), v.dtype(), v.device());
  const Tensor norm = is_unit ? empty_sums({v.size(0), v.size(1), 1}, v) : Tensor();
  const kernels::BernoulliOptions settings{bits, gradient};
  dispatch(q, [&]<class T>(auto& device, Type<T>) {
    if (is_unit)
      kernels::unit_bernoulli_expectation_forward<T>(device, sequences_of(layout), inputs_of<T>(inputs),
                                                     settings, heads_of<T>(out), heads_of<Accumulate<T>>(norm));
    else
      kernels::bernoulli_expectation_forward<T>(device, sequences_of(layout), inputs_of<T>(inputs), settings,
                                                heads_of<T>(out));
  });
  const Tensor scaled = is_unit ? out : Tensor();
  return record(
      "bernoulli_expectation", out, {q, k, v}, [=](const Tensor& gradient_of_out, GradientSink& sink) {
        const Tensor dout = with_unit_width(gradient_of_out);
        const AttentionTensors d = attention_gradients(inputs);
        dispatch(dout, [&]<class T>(auto& device, Type<T>) {
          if (scaled.defined())
            kernels::unit_bernoulli_expectation_backward<T>(
                device, sequences_of(layout), inputs_of<T>(inputs), settings,
                {heads_of<const T>(scaled), heads_of<const Accumulate<T>>(norm)}, heads_of<const T>(dout),
                gradients_of<T>(d));
          else
            kernels::bernoulli_expectation_backward<T>(device, sequences_of(layout), inputs_of<T>(inputs),
                                                       settings, heads_of<const T>(dout), gradients_of<T>(d));
        });
        add_attention_gradients(d, sink);
      });
}

}  // namespace tern
