#include "kernels/reduce.h"

#include "ops/views.h"

namespace tern {
namespace {

struct Reduction {
  kernels::ReduceShape extents{1, 1, 1};
  Shape result;
};

Reduction reduction_of(const Tensor& x, int axis) {
  Reduction out;
  std::vector<std::int64_t> kept;
  for (int i = 0; i < x.rank(); ++i) {
    if (i != axis) kept.push_back(x.size(i));
    (i < axis ? out.extents.outer : i == axis ? out.extents.length : out.extents.inner) *= x.size(i);
  }
  out.result = Shape(kept);
  return out;
}

/// dy with `axis` put back as a repeated one, as a view.
Tensor repeated_along(const Tensor& dy, int axis, std::int64_t length) {
  std::vector<std::int64_t> shape(dy.shape().begin(), dy.shape().end()),
      strides(dy.strides().begin(), dy.strides().end());
  shape.insert(shape.begin() + axis, length);
  strides.insert(strides.begin() + axis, 0);
  return dy.viewed(Shape(shape), Shape(strides));
}

}  // namespace

Tensor sum(const Tensor& input, int axis) {
  require_floating("sum", input);
  axis = positive_axis("sum", input, axis);
  const Reduction reduction = reduction_of(input, axis);
  const Tensor x = contiguous_constant(input), y = empty(reduction.result, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::sum<T>(device, reduction.extents, x.data<T>(), y.data<T>());
  });
  return record("sum", y, {input}, [axis, length = x.size(axis)](const Tensor& dy, GradientSink& sink) {
    sink.add(0, repeated_along(dy, axis, length));
  });
}

Tensor sum(const Tensor& x) {
  require_floating("sum", x);
  return reshape(sum(reshape(x, {1, x.count()}), 1), {});
}

Tensor mean(const Tensor& x, int axis) {
  axis = positive_axis("mean", x, axis);
  require(x.size(axis) > 0, "mean: axis {} of shape {} must not be empty", axis, x.shape());
  return affine(sum(x, axis), 1.0 / static_cast<double>(x.size(axis)));
}

Tensor max(const Tensor& input, int axis) {
  require_floating("max", input);
  axis = positive_axis("max", input, axis);
  require(input.size(axis) > 0, "max: axis {} of shape {} must not be empty", axis, input.shape());
  const Reduction reduction = reduction_of(input, axis);
  const Tensor x = contiguous_constant(input), y = empty(reduction.result, x.dtype(), x.device());
  const Tensor where = empty(reduction.result, DType::int64, x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::max<T>(device, reduction.extents, x.data<T>(), y.data<T>(), where.data<std::int64_t>());
  });
  return record(
      "max", y, {input},
      [extents = reduction.extents, shape = x.shape(), where](const Tensor& gradient, GradientSink& sink) {
        const Tensor dy = contiguous_constant(gradient), dx = empty(shape, dy.dtype(), dy.device());
        dispatch(dy, [&]<class T>(auto& device, Type<T>) {
          kernels::max_backward<T>(device, extents, where.data<std::int64_t>(), dy.data<T>(), dx.data<T>());
        });
        sink.add(0, dx);
      });
}

Tensor norm(const Tensor& x, int axis) { return sqrt(sum(square(x), axis)); }

}  // namespace tern
