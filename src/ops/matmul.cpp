#include "kernels/matmul.h"

#include <algorithm>
#include <limits>

#include "core/accumulate.h"
#include "ops/views.h"

namespace tern {
namespace {

using kernels::Transpose;

/// BLAS counts in 32 bits.
void require_blas_size(const char* op, std::int64_t size) {
  require(size <= std::numeric_limits<std::int32_t>::max(),
          "{}: matrices must have less than 2^31 rows and columns, got {}", op, size);
}

/// Whether one gradient belongs to both.
bool is_same_value(const Tensor& a, const Tensor& b) {
  return a.requires_gradient() && a.edge().node == b.edge().node && a.edge().output == b.edge().output;
}

kernels::MatmulShape matmul_shape(const Tensor& a, const Tensor& b, MatmulOptions options) {
  require_floating("matmul", a);
  require(a.rank() >= 2 && a.rank() == b.rank() && a.dtype() == b.dtype(),
          "matmul: needs two tensors of one type with equal leading axes, got {} {} and {} {}", a.dtype(),
          a.shape(), b.dtype(), b.shape());
  std::int64_t batch = 1;
  for (int axis = 0; axis < a.rank() - 2; ++axis) {
    require(a.size(axis) == b.size(axis), "matmul: leading axes must agree, got {} x {}", a.shape(), b.shape());
    batch *= a.size(axis);
  }
  const std::int64_t m = a.size(options.transpose_a ? -1 : -2), k = a.size(options.transpose_a ? -2 : -1);
  const std::int64_t n = b.size(options.transpose_b ? -2 : -1);
  require(b.size(options.transpose_b ? -1 : -2) == k,
          "matmul: inner sizes must agree, got {} x {} (transposed: {}, {}); transpose an operand?", a.shape(),
          b.shape(), options.transpose_a, options.transpose_b);
  require_blas_size("matmul", std::max({m, n, k}));
  return {batch,
          m,
          n,
          k,
          options.transpose_a ? Transpose::yes : Transpose::no,
          options.transpose_b ? Transpose::yes : Transpose::no,
          m * k,
          k * n,
          m * n};
}

/// target (+)= op(a) op(b).
void multiply_into(const Tensor& a, const Tensor& b, MatmulOptions options, const Tensor& target,
                   bool accumulate) {
  dispatch(a, [&]<class T>(auto& device, Type<T>) {
    kernels::matmul<T>(device, matmul_shape(a, b, options), a.data<T>(), b.data<T>(), accumulate ? T(1) : T(0),
                       target.data<T>());
  });
}

}  // namespace

Tensor matmul(const Tensor& first, const Tensor& second, MatmulOptions options) {
  const kernels::MatmulShape extents = matmul_shape(first, second, options);
  const Tensor a = contiguous_constant(first), b = contiguous_constant(second);
  Shape shape = a.shape();
  shape[shape.rank() - 2] = extents.m;
  shape[shape.rank() - 1] = extents.n;
  const Tensor c = empty(shape, a.dtype(), a.device());
  multiply_into(a, b, options, c, false);
  return record("matmul", c, {first, second}, [a, b, options](const Tensor& gradient, GradientSink& sink) {
    const Tensor dc = contiguous_constant(gradient);
    sink.write(0, [&](const Tensor& da, bool accumulate) {
      if (options.transpose_a)
        multiply_into(b, dc, {options.transpose_b, true}, da, accumulate);
      else
        multiply_into(dc, b, {false, !options.transpose_b}, da, accumulate);
    });
    sink.write(1, [&](const Tensor& db, bool accumulate) {
      if (options.transpose_b)
        multiply_into(dc, a, {true, options.transpose_a}, db, accumulate);
      else
        multiply_into(a, dc, {!options.transpose_a, false}, db, accumulate);
    });
  });
}

Tensor linear(const Tensor& input, const Tensor& weight, const Tensor& bias, ActivationKind activation) {
  require_floating("linear", input);
  require(weight.rank() == 2 && input.rank() >= 1 && input.size(-1) == weight.size(1) &&
              weight.dtype() == input.dtype(),
          "linear: x [..., inputs] needs a weight [outputs, inputs] of its type, got {} {} and {} {}",
          input.dtype(), input.shape(), weight.dtype(), weight.shape());
  require(!bias.defined() || bias.shape() == Shape{weight.size(0)}, "linear: the bias must be [{}], got {}",
          weight.size(0), bias.defined() ? bias.shape() : Shape{});
  require(weight.count() > 0, "linear: the weight must not be empty, got shape {}", weight.shape());
  require_blas_size("linear", std::max(weight.size(0), weight.size(1)));
  // The closure holds the gradient buffers of all inputs at once, so they must be different ones.
  if (is_same_value(input, weight)) return linear(input, affine(weight, 1), bias, activation);
  if (is_same_value(input, bias)) return linear(input, weight, affine(bias, 1), activation);
  const auto kind = static_cast<kernels::Activation>(activation);
  const Tensor x = contiguous_constant(input), w = contiguous_constant(weight),
               added = bias.defined() ? contiguous_constant(bias) : Tensor();
  const std::int64_t outputs = w.size(0);
  Shape shape = x.shape();
  shape[shape.rank() - 1] = outputs;
  const Tensor y = empty(shape, x.dtype(), x.device());
  const bool keeps_sums = activation == ActivationKind::gelu && is_recording();
  const Tensor before = keeps_sums ? empty_like(y) : Tensor();
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::linear_forward<T>(device, rows_of<const T>(x), w.data<T>(),
                               added.defined() ? added.data<T>() : nullptr, outputs, kind,
                               keeps_sums ? before.data<T>() : nullptr, y.data<T>());
  });
  const Tensor saved = activation == ActivationKind::gelu   ? before
                       : activation == ActivationKind::relu ? y
                                                            : Tensor();
  return record("linear", y, {input, weight, bias}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient);
    Tensor dx, dw, db;
    bool accumulate_dx = false;
    sink.write(0, [&](const Tensor& target, bool accumulate) { dx = target, accumulate_dx = accumulate; });
    const auto take = [](Tensor& out) {
      return [&out](const Tensor& target, bool accumulate) {
        out = target;
        if (!accumulate) clear(target);
      };
    };
    sink.write(1, take(dw));
    sink.write(2, take(db));
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::linear_backward<T>(device, rows_of<const T>(x), w.data<T>(), outputs, kind,
                                  saved.defined() ? saved.data<T>() : nullptr, dy.data<T>(),
                                  dx.defined() ? dx.data<T>() : nullptr, accumulate_dx,
                                  dw.defined() ? dw.data<T>() : nullptr, db.defined() ? db.data<T>() : nullptr);
    });
  });
}

}  // namespace tern
