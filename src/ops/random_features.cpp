// Random features of Performer: orthogonal directions and positive features.
#include "kernels/random_features.h"

#include "ops/views.h"

namespace tern {

Tensor orthogonal_directions(const Shape& shape, const RedrawOptions& options, DType dtype, Device device) {
  require(shape.rank() == 2 && shape[0] > 0 && shape[1] > 0,
          "orthogonal_directions: the shape must be [directions, width], got {}", shape);
  const Tensor out = empty(shape, dtype, device);
  require_floating("orthogonal_directions", out);
  const kernels::RedrawSchedule schedule{options.stream, options.interval};
  dispatch(out, [&]<class T>(auto& context, Type<T>) {
    kernels::draw_orthogonal<T>(context, schedule, rows_of<T>(out));
  });
  return out;
}

Tensor positive_features(const Tensor& input, const Tensor& directions, const SequenceLayout& layout,
                         const PositiveFeatureOptions& options) {
  require_floating("positive_features", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && input.size(2) > 0 &&
              directions.rank() == 2 && directions.size(0) > 0 && directions.size(1) == input.size(2) &&
              directions.dtype() == input.dtype(),
          "positive_features: x [{}, heads, width] needs directions [features, width] of its type, got {} {} "
          "and {} {}",
          layout.tokens(), input.dtype(), input.shape(), directions.dtype(), directions.shape());
  require(options.stabilizer >= 0, "positive_features: the stabilizer must be at least 0, got {}",
          options.stabilizer);
  require_one_device("positive_features",
                     {{"x", input}, {"directions", directions}, {"layout", layout.offsets}});
  const Tensor x = with_unit_width(input), rows = contiguous_constant(directions);
  const std::int64_t count = rows.size(0);
  const auto operands = [=]<class T>(Type<T>) {
    return kernels::PositiveFeatures<T>{heads_of<const T>(x),    rows.data<T>(),
                                        static_cast<int>(count), options.scale,
                                        options.stabilizer,      options.side == FeatureSide::key};
  };
  const Tensor y = empty({x.size(0), x.size(1), count}, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T> type) {
    kernels::positive_features_forward<T>(device, sequences_of(layout), operands(type), y.data<T>());
  });
  return record("positive_features", y, {input}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty(x.shape(), x.dtype(), x.device());
    dispatch(dy, [&]<class T>(auto& device, Type<T> type) {
      kernels::positive_features_backward<T>(device, operands(type), y.data<T>(), dy.data<T>(), dx.data<T>());
    });
    sink.add(0, dx);
  });
}

}  // namespace tern
