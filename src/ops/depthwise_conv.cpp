#include "kernels/depthwise_conv.h"

#include "ops/views.h"

namespace tern {

Tensor depthwise_conv(const Tensor& input, const Tensor& weight, const SequenceLayout& layout) {
  require_floating("depthwise_conv", input);
  require(input.rank() == 3 && weight.rank() == 2 && weight.size(0) == input.size(1) &&
              weight.size(1) % 2 == 1 && is_parameter_for(weight, input) && input.size(0) == layout.tokens(),
          "depthwise_conv: needs x [{}, heads, width] and weight [heads, odd window] of one type, got {} {} "
          "and {} {}",
          layout.tokens(), input.dtype(), input.shape(), weight.dtype(), weight.shape());
  require_one_device("depthwise_conv", {{"x", input}, {"weight", weight}, {"layout", layout.offsets}});
  const Tensor x = with_unit_width(input), filter = contiguous_constant(weight);
  const Tensor y = empty(x.shape(), x.dtype(), x.device());
  const int window = static_cast<int>(filter.size(1));
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::depthwise_conv_forward<T>(device, sequences_of(layout), heads_of<const T>(x),
                                       filter.data<Accumulate<T>>(), window, y.data<T>());
  });
  return record("depthwise_conv", y, {input, weight}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient);
    const Tensor dx = sink.wants(0) ? empty_like(dy) : Tensor();
    const Tensor dweight = sink.wants(1) ? zero_sums(filter.shape(), dy) : Tensor();
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::depthwise_conv_backward<T>(device, sequences_of(layout), heads_of<const T>(x),
                                          filter.data<Accumulate<T>>(), window, dy.data<T>(),
                                          data_or_null<T>(dx), data_or_null<Accumulate<T>>(dweight));
    });
    if (dx.defined()) sink.add(0, dx);
    if (dweight.defined()) sink.add(1, dweight);
  });
}

}  // namespace tern
