#include "kernels/matmul.h"

#include <algorithm>
#include <limits>

#include "ops/views.h"

namespace tern {
namespace {

using kernels::Transpose;

/// BLAS counts in 32 bits.
void require_blas_size(const char* op, std::int64_t size) {
  require(size <= std::numeric_limits<std::int32_t>::max(),
          "{}: matrices must have less than 2^31 rows and columns, got {}", op, size);
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

Tensor product(const Tensor& a, const Tensor& b, MatmulOptions options) {
  const kernels::MatmulShape extents = matmul_shape(a, b, options);
  Shape shape = a.shape();
  shape[shape.rank() - 2] = extents.m;
  shape[shape.rank() - 1] = extents.n;
  const Tensor c = empty(shape, a.dtype(), a.device());
  dispatch(a, [&]<class T>(auto& device, Type<T>) {
    kernels::matmul<T>(device, extents, a.data<T>(), b.data<T>(), Accumulate<T>(0), c.data<T>());
  });
  return c;
}

}  // namespace

Tensor matmul(const Tensor& first, const Tensor& second, MatmulOptions options) {
  matmul_shape(first, second, options);
  require_one_device("matmul", {{"a", first}, {"b", second}});
  const Tensor a = contiguous_constant(first), b = contiguous_constant(second);
  return record("matmul", product(a, b, options), {first, second},
                [a, b, options](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dc = contiguous_constant(gradient);
                  const bool ta = options.transpose_a, tb = options.transpose_b;
                  if (sink.wants(0))
                    sink.add(0, ta ? product(b, dc, {tb, true}) : product(dc, b, {false, !tb}));
                  if (sink.wants(1))
                    sink.add(1, tb ? product(dc, a, {true, ta}) : product(a, dc, {!ta, false}));
                });
}

Tensor linear(const Tensor& input, const Tensor& weight, const Tensor& bias, ActivationKind activation) {
  require_floating("linear", input);
  require(weight.rank() == 2 && input.rank() >= 1 && input.size(-1) == weight.size(1) &&
              weight.dtype() == input.dtype(),
          "linear: x [..., inputs] needs a weight [outputs, inputs] of its type, got {} {} and {} {}",
          input.dtype(), input.shape(), weight.dtype(), weight.shape());
  require(!bias.defined() || (bias.shape() == Shape{weight.size(0)} && is_parameter_for(bias, input)),
          "linear: the bias must be {} [{}], got {} {}", accumulate_type(input.dtype()), weight.size(0),
          bias.dtype(), bias.defined() ? bias.shape() : Shape{});
  require_one_device("linear", {{"x", input}, {"weight", weight}, {"bias", bias}});
  require(weight.count() > 0, "linear: the weight must not be empty, got shape {}", weight.shape());
  require_blas_size("linear", std::max(weight.size(0), weight.size(1)));
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
    kernels::linear_forward<T>(device, rows_of<const T>(x), w.data<T>(), data_or_null<Accumulate<T>>(added),
                               outputs, kind, data_or_null<T>(before), y.data<T>());
  });
  const Tensor saved = activation == ActivationKind::gelu   ? before
                       : activation == ActivationKind::relu ? y
                                                            : Tensor();
  return record("linear", y, {input, weight, bias}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient);
    const Tensor dx = sink.wants(0) ? empty_like(x) : Tensor();
    const Tensor dw = gradient_sums(sink, 1), db = gradient_sums(sink, 2);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::linear_backward<T>(device, rows_of<const T>(x), w.data<T>(), outputs, kind,
                                  data_or_null<T>(saved), dy.data<T>(), data_or_null<T>(dx),
                                  data_or_null<Accumulate<T>>(dw), data_or_null<Accumulate<T>>(db));
    });
    if (dx.defined()) sink.add(0, dx);
  });
}

}  // namespace tern
