// Feature maps of attention that is linear in features.
#include "kernels/feature_maps.h"

#include "ops/views.h"

namespace tern {

Tensor elu_plus_one(const Tensor& input) {
  require_floating("elu_plus_one", input);
  const std::int64_t width = input.rank() == 0 ? 1 : input.size(-1);
  const Tensor x =
      input.rank() == 3
          ? with_unit_width(input)
          : contiguous_constant(input).reshaped({width == 0 ? 0 : input.count() / width, 1, width});
  const Tensor y = empty(input.shape(), x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::elu_plus_one_forward<T>(device, heads_of<const T>(x), y.data<T>());
  });
  return record("elu_plus_one", y, {input}, [y](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty_like(dy);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::elu_plus_one_backward<T>(device, y.count(), y.data<T>(), dy.data<T>(), dx.data<T>());
    });
    sink.add(0, dx);
  });
}

std::int64_t taylor_feature_count(std::int64_t width) {
  return kernels::taylor_feature_count(static_cast<int>(width));
}

Tensor taylor_features(const Tensor& input) {
  require_floating("taylor_features", input);
  require(input.rank() == 3 && input.size(2) >= 1 && input.size(2) <= 64,
          "taylor_features: x must be [tokens, heads, width] with at most 64 columns, got {}", input.shape());
  const Tensor x = with_unit_width(input);
  const Tensor y = empty({x.size(0), x.size(1), taylor_feature_count(x.size(2))}, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::taylor_features_forward<T>(device, heads_of<const T>(x), y.data<T>());
  });
  return record("taylor_features", y, {input}, [x](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty(x.shape(), x.dtype(), x.device());
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::taylor_features_backward<T>(device, heads_of<const T>(x), dy.data<T>(), dx.data<T>());
    });
    sink.add(0, dx);
  });
}

}  // namespace tern
