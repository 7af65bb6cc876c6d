#include "kernels/feed_forward.h"

#include "ops/views.h"

namespace tern {
namespace {

void require_feed_forward_shapes(const Tensor& x, const FeedForwardParameters& p) {
  require_floating("feed_forward", x);
  require(
      x.rank() == 2 && p.up.rank() == 2 && p.up.count() > 0 && p.up.size(1) == x.size(1) &&
          p.down.shape() == Shape{x.size(1), p.up.size(0)} && p.up_bias.shape() == Shape{p.up.size(0)} &&
          p.down_bias.shape() == Shape{x.size(1)},
      "feed_forward: x [rows, width] needs up [hidden, width], down [width, hidden] and biases [hidden] and "
      "[width], got {}, {}, {}, {} and {}",
      x.shape(), p.up.shape(), p.down.shape(), p.up_bias.shape(), p.down_bias.shape());
  require(p.up.dtype() == x.dtype() && p.down.dtype() == x.dtype() && is_parameter_for(p.up_bias, x) &&
              is_parameter_for(p.down_bias, x),
          "feed_forward: weights must be {} and biases {}, got {}, {}, {} and {}", x.dtype(),
          accumulate_type(x.dtype()), p.up.dtype(), p.down.dtype(), p.up_bias.dtype(), p.down_bias.dtype());
}

template <class T>
kernels::FeedForwardWeights<T> weights_of(const FeedForwardParameters& p) {
  return {p.up.size(1),
          p.up.size(0),
          p.up.data<T>(),
          p.down.data<T>(),
          p.up_bias.data<Accumulate<T>>(),
          p.down_bias.data<Accumulate<T>>()};
}

}  // namespace

Tensor feed_forward(const Tensor& input, const FeedForwardParameters& parameters, const RowCoordinates& rows,
                    const DropoutOptions& options) {
  require_feed_forward_shapes(input, parameters);
  require_rate("feed_forward", options.rate);
  require(rows.sample.shape() == Shape{input.size(0)} && rows.position.shape() == rows.sample.shape(),
          "feed_forward: needs coordinates for each of {} rows, got {}", input.size(0), rows.sample.shape());
  require_one_device("feed_forward", {{"x", input},
                                      {"up", parameters.up},
                                      {"up_bias", parameters.up_bias},
                                      {"down", parameters.down},
                                      {"down_bias", parameters.down_bias},
                                      {"samples of rows", rows.sample},
                                      {"positions of rows", rows.position}});
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  const FeedForwardParameters p{contiguous_constant(parameters.up), contiguous_constant(parameters.up_bias),
                                contiguous_constant(parameters.down),
                                contiguous_constant(parameters.down_bias)};
  Tensor before;
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    const kernels::FeedForwardWeights<T> weights = weights_of<T>(p);
    if (is_recording() && !kernels::recomputes_feed_forward<T>(device, weights.width, weights.hidden))
      before = empty({x.size(0), weights.hidden}, x.dtype(), x.device());
    kernels::feed_forward_forward<T>(device, rows_of<const T>(x), weights, mask_of(rows, options),
                                     data_or_null<T>(before), y.data<T>());
  });
  return record("feed_forward", y,
                {input, parameters.up, parameters.up_bias, parameters.down, parameters.down_bias},
                [=](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dy = contiguous_constant(gradient), dx = empty_like(x);
                  const Tensor up = gradient_sums(sink, 1), up_bias = gradient_sums(sink, 2),
                               down = gradient_sums(sink, 3), down_bias = gradient_sums(sink, 4);
                  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
                    using Sum = Accumulate<T>;
                    kernels::feed_forward_backward<T>(
                        device, rows_of<const T>(x), weights_of<T>(p), mask_of(rows, options),
                        data_or_null<T>(before), dy.data<T>(), dx.data<T>(),
                        {data_or_null<Sum>(up), data_or_null<Sum>(down), data_or_null<Sum>(up_bias),
                         data_or_null<Sum>(down_bias)});
                  });
                  sink.add(0, dx);
                });
}

}  // namespace tern
