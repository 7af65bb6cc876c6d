#include "kernels/grid_conv.h"

#include "ops/views.h"

namespace tern {

Tensor grid_conv(const Tensor& input, const Tensor& weight, const Tensor& bias, const SequenceLayout& layout,
                 bool of_relu) {
  require_floating("grid_conv", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && weight.rank() == 4 &&
              weight.size(1) == input.size(1) && weight.size(2) == 3 && weight.size(3) == 3 &&
              is_parameter_for(weight, input),
          "grid_conv: needs x [{}, channels, columns] and weight [outputs, channels, 3, 3] of one type, got {} "
          "{} and {} {}",
          layout.tokens(), input.dtype(), input.shape(), weight.dtype(), weight.shape());
  require(!bias.defined() || (bias.shape() == Shape{weight.size(0)} && is_parameter_for(bias, input)),
          "grid_conv: the bias must be {} [{}], got {} {}", weight.dtype(), weight.size(0), bias.dtype(),
          bias.defined() ? bias.shape() : Shape{});
  require_one_device("grid_conv",
                     {{"x", input}, {"weight", weight}, {"bias", bias}, {"layout", layout.offsets}});
  const Tensor x = with_unit_width(input), filters = contiguous_constant(weight),
               added = bias.defined() ? contiguous_constant(bias) : Tensor();
  const Tensor y = empty({x.size(0), weight.size(0), x.size(2)}, x.dtype(), x.device());
  const auto filters_of = [filters, of_relu]<class A>() {
    return kernels::GridFilters<A>{filters.data<A>(), static_cast<int>(filters.size(0)),
                                   static_cast<int>(filters.size(1)), of_relu};
  };
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    using A = Accumulate<T>;
    kernels::grid_conv_forward<T>(device, sequences_of(layout), heads_of<const T>(x),
                                  filters_of.template operator()<A>(), data_or_null<A>(added), y.data<T>());
  });
  return record("grid_conv", y, {input, weight, bias}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = with_unit_width(gradient);
    const Tensor dx = sink.wants(0) ? empty(x.shape(), x.dtype(), x.device()) : Tensor();
    const bool has_sums = sink.wants(1) || sink.wants(2);
    const Tensor dweight = has_sums ? zero_sums(filters.shape(), dy) : Tensor(),
                 dbias = has_sums ? zero_sums({filters.size(0)}, dy) : Tensor();
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      using A = Accumulate<T>;
      kernels::grid_conv_backward<T>(device, sequences_of(layout), heads_of<const T>(x),
                                     filters_of.template operator()<A>(), heads_of<const T>(dy),
                                     {data_or_null<T>(dx), data_or_null<A>(dweight), data_or_null<A>(dbias)});
    });
    if (dx.defined()) sink.add(0, dx);
    if (sink.wants(1)) sink.add(1, dweight);
    if (sink.wants(2)) sink.add(2, dbias);
  });
}

}  // namespace tern
