#include "kernels/elementwise.h"

#include "kernels/reduce.h"
#include "ops/views.h"

namespace tern {
namespace {

using kernels::Binary;
using kernels::Unary;

Tensor unary(const char* op, Unary kind, const Tensor& input) {
  require_floating(op, input);
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::unary_forward<T>(device, kind, x.count(), x.data<T>(), y.data<T>());
  });
  return record(op, y, {input}, [kind, x](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty_like(dy);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::unary_backward<T>(device, kind, x.count(), x.data<T>(), dy.data<T>(), dx.data<T>());
    });
    sink.add(0, dx);
  });
}

/// Rows of b's size that make up a: 1 when the shapes agree.
std::int64_t repeats(const char* op, const Tensor& a, const Tensor& b) {
  require_floating(op, a);
  require(a.dtype() == b.dtype(), "{}: both inputs must have one type, got {} and {}; cast one", op, a.dtype(),
          b.dtype());
  bool is_suffix = b.rank() <= a.rank();
  for (int axis = 1; is_suffix && axis <= b.rank(); ++axis) is_suffix = a.size(-axis) == b.size(-axis);
  require(is_suffix, "{}: the second shape must equal the first or end it, got {} and {}; expand one", op,
          a.shape(), b.shape());
  require_one_device(op, {{"a", a}, {"b", b}});
  std::int64_t rows = 1;
  for (int axis = 0; axis < a.rank() - b.rank(); ++axis) rows *= a.size(axis);
  return rows;
}

Tensor summed_over_rows(const Tensor& x, std::int64_t rows, const Shape& shape) {
  if (rows == 1) return x.reshaped(shape);
  const Tensor y = empty(shape, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::sum<T>(device, {1, rows, y.count()}, x.data<T>(), y.data<T>());
  });
  return y;
}

Tensor combined(Binary kind, std::int64_t rows, const Tensor& a, const Tensor& b) {
  const Tensor y = empty_like(a);
  dispatch(a, [&]<class T>(auto& device, Type<T>) {
    kernels::binary_forward<T>(device, kind, rows, b.count(), a.data<T>(), b.data<T>(), y.data<T>());
  });
  return y;
}

Tensor binary(const char* op, Binary kind, const Tensor& first, const Tensor& second) {
  const std::int64_t rows = repeats(op, first, second);
  const Tensor a = contiguous_constant(first), b = contiguous_constant(second), y = combined(kind, rows, a, b);
  return record(op, y, {first, second}, [kind, rows, a, b](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient);
    const Tensor da = sink.wants(0) ? empty_like(a) : Tensor(), db = sink.wants(1) ? empty_like(a) : Tensor();
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::binary_backward<T>(device, kind, rows, b.count(), a.data<T>(), b.data<T>(), dy.data<T>(),
                                  da.defined() ? da.data<T>() : nullptr, db.defined() ? db.data<T>() : nullptr);
    });
    if (da.defined()) sink.add(0, da);
    if (db.defined()) sink.add(1, summed_over_rows(db, rows, b.shape()));
  });
}

}  // namespace

/// Keeps nothing: both gradients are that of the sum.
Tensor add(const Tensor& first, const Tensor& second) {
  const std::int64_t rows = repeats("add", first, second);
  const Tensor y = combined(Binary::add, rows, contiguous_constant(first), contiguous_constant(second));
  return record("add", y, {first, second},
                [rows, shape = second.shape()](const Tensor& dy, GradientSink& sink) {
                  sink.add(0, dy);
                  if (sink.wants(1)) sink.add(1, summed_over_rows(contiguous_constant(dy), rows, shape));
                });
}
Tensor subtract(const Tensor& a, const Tensor& b) { return binary("subtract", Binary::subtract, a, b); }
Tensor multiply(const Tensor& a, const Tensor& b) { return binary("multiply", Binary::multiply, a, b); }
Tensor divide(const Tensor& a, const Tensor& b) { return binary("divide", Binary::divide, a, b); }

Tensor relu(const Tensor& x) { return unary("relu", Unary::relu, x); }
Tensor gelu(const Tensor& x) { return unary("gelu", Unary::gelu, x); }
Tensor exp(const Tensor& x) { return unary("exp", Unary::exp, x); }
Tensor log(const Tensor& x) { return unary("log", Unary::log, x); }
Tensor sqrt(const Tensor& x) { return unary("sqrt", Unary::sqrt, x); }
Tensor square(const Tensor& x) { return unary("square", Unary::square, x); }
Tensor reciprocal(const Tensor& x) { return unary("reciprocal", Unary::reciprocal, x); }
Tensor tanh(const Tensor& x) { return unary("tanh", Unary::tanh, x); }
Tensor sigmoid(const Tensor& x) { return unary("sigmoid", Unary::sigmoid, x); }

Tensor affine(const Tensor& input, double factor, double offset) {
  require_floating("affine", input);
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::affine<T>(device, x.count(), static_cast<Accumulate<T>>(factor),
                       static_cast<Accumulate<T>>(offset), x.data<T>(), y.data<T>());
  });
  return record("affine", y, {input},
                [factor](const Tensor& dy, GradientSink& sink) { sink.add(0, affine(dy, factor)); });
}

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = empty(x.shape(), dtype, x.device());
  copy(x, y);
  if (!is_floating(x.dtype()) || !is_floating(dtype)) return y;
  return record("cast", y, {x},
                [from = x.dtype()](const Tensor& dy, GradientSink& sink) { sink.add(0, cast(dy, from)); });
}

}  // namespace tern
