// Landmarks of ragged sequences, the three softmaxes of attention by way of them, and the inverse between them.
#include "kernels/landmarks.h"

#include "kernels/matmul.h"
#include "kernels/softmax.h"
#include "ops/views.h"

namespace tern {
namespace {

/// The gradient of rows that sum to one, or are zero.
Tensor softmax_gradient(const Tensor& y, const Tensor& gradient) {
  const Tensor dy = contiguous_constant(gradient), dx = empty_like(dy);
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    kernels::softmax_backward<T>(device, rows_of<const T>(y), rows_of<const T>(dy), rows_of<T>(dx));
  });
  return dx;
}

void require_scores(const char* op, const Tensor& x, const SequenceLayout& layout) {
  require_floating(op, x);
  require(x.rank() == 3 && x.size(0) == layout.tokens() && x.size(2) > 0,
          "{}: x must be [{}, heads, landmarks], got {}", op, layout.tokens(), x.shape());
  require_one_device(op, {{"x", x}, {"layout", layout.offsets}});
}

/// c = op(a) op(b) + beta c for matrices [..., m, m].
void add_product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, double beta,
                 const Tensor& c) {
  using kernels::Transpose;
  const std::int64_t m = c.size(-1), size = m * m;
  const auto order = [](bool is_transposed) { return is_transposed ? Transpose::yes : Transpose::no; };
  dispatch(c, [&]<class T>(auto& device, Type<T>) {
    kernels::matmul<T>(device,
                       {c.count() / size, m, m, m, order(transpose_a), order(transpose_b), size, size, size},
                       a.data<T>(), b.data<T>(), static_cast<Accumulate<T>>(beta), c.data<T>());
  });
}

Tensor copy_of(const Tensor& x) {
  const Tensor out = empty_like(x);
  copy(x, out);
  return out;
}

/// One step of the iteration, Z' = (13 Z - Z Y (15 I - Y (7 I - Y))) / 4, and what its gradient needs.
struct InverseStep {
  Tensor y;      ///< M Z
  Tensor inner;  ///< Y Y - 7 Y
  Tensor outer;  ///< Y inner + 15 Y
};
InverseStep inverse_step(const Tensor& matrices, const Tensor& z) {
  const Tensor y = empty_like(z);
  add_product(matrices, false, z, false, 0, y);
  const Tensor inner = copy_of(y), outer = copy_of(y);
  add_product(y, false, y, false, -7, inner);
  add_product(y, false, inner, false, 15, outer);
  return {y, inner, outer};
}

/// Adds the gradient of M to `dm` and returns that of Z, for that of Z'.
Tensor inverse_step_backward(const Tensor& matrices, const Tensor& z, const Tensor& gradient,
                             const Tensor& dm) {
  const InverseStep step = inverse_step(matrices, z);
  const Tensor dp = affine(gradient, -0.25);  // of Z outer - 13 Z
  const Tensor dz = copy_of(dp), douter = empty_like(z), dinner = empty_like(z);
  add_product(dp, false, step.outer, true, -13, dz);
  add_product(z, true, dp, false, 0, douter);
  add_product(step.y, true, douter, false, 0, dinner);
  const Tensor dy = add(affine(douter, 15), affine(dinner, -7));
  add_product(douter, false, step.inner, true, 1, dy);
  add_product(dinner, false, step.y, true, 1, dy);
  add_product(step.y, true, dinner, false, 1, dy);
  add_product(dy, false, z, true, 1, dm);
  add_product(matrices, true, dy, false, 1, dz);
  return dz;
}

}  // namespace

Tensor segment_means(const Tensor& input, const SequenceLayout& layout, std::int64_t landmarks) {
  require_floating("segment_means", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && landmarks > 0 && landmarks <= 65536,
          "segment_means: needs x [{}, heads, width] and 1 to 65,536 landmarks, got {} and {}", layout.tokens(),
          input.shape(), landmarks);
  require_one_device("segment_means", {{"x", input}, {"layout", layout.offsets}});
  const Tensor x = with_unit_width(input),
               means = empty_sums({layout.sequences(), x.size(1), landmarks, x.size(2)}, x);
  const int count = static_cast<int>(landmarks);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::segment_means_forward<T>(device, sequences_of(layout), heads_of<const T>(x), count,
                                      means.data<Accumulate<T>>());
  });
  return record(
      "segment_means", means, {input},
      [layout, count, shape = x.shape(), dtype = x.dtype()](const Tensor& gradient, GradientSink& sink) {
        const Tensor dmeans = contiguous_constant(gradient), dx = empty(shape, dtype, dmeans.device());
        dispatch(dx, [&]<class T>(auto& device, Type<T>) {
          kernels::segment_means_backward<T>(device, sequences_of(layout), count, dmeans.data<Accumulate<T>>(),
                                             heads_of<T>(dx));
        });
        sink.add(0, dx);
      });
}

Tensor softmax_over_landmarks(const Tensor& input, const SequenceLayout& layout) {
  require_scores("softmax_over_landmarks", input, layout);
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::softmax_over_landmarks<T>(device, sequences_of(layout), heads_of<const T>(x), heads_of<T>(y));
  });
  return record("softmax_over_landmarks", y, {input}, [y](const Tensor& gradient, GradientSink& sink) {
    sink.add(0, softmax_gradient(y, gradient));
  });
}

Tensor softmax_between_landmarks(const Tensor& input, const SequenceLayout& layout) {
  require_floating("softmax_between_landmarks", input);
  require(input.rank() == 4 && input.size(0) == layout.sequences() && input.size(2) == input.size(3) &&
              input.size(3) > 0,
          "softmax_between_landmarks: x must be [{}, heads, landmarks, landmarks], got {}", layout.sequences(),
          input.shape());
  require_one_device("softmax_between_landmarks", {{"x", input}, {"layout", layout.offsets}});
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::softmax_between_landmarks<T>(device, sequences_of(layout), static_cast<int>(x.size(1)),
                                          static_cast<int>(x.size(3)), x.data<T>(), y.data<T>());
  });
  return record("softmax_between_landmarks", y, {input}, [y](const Tensor& gradient, GradientSink& sink) {
    sink.add(0, softmax_gradient(y, gradient));
  });
}

Tensor softmax_over_tokens(const Tensor& input, const SequenceLayout& layout) {
  require_scores("softmax_over_tokens", input, layout);
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::softmax_over_tokens<T>(device, sequences_of(layout), heads_of<const T>(x), heads_of<T>(y));
  });
  return record("softmax_over_tokens", y, {input}, [y, layout](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty_like(dy);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::softmax_over_tokens_backward<T>(device, sequences_of(layout), heads_of<const T>(y),
                                               heads_of<const T>(dy), heads_of<T>(dx));
    });
    sink.add(0, dx);
  });
}

Tensor iterated_inverse(const Tensor& input, const Tensor& start, int iterations) {
  require_floating("iterated_inverse", input);
  require(
      input.rank() >= 2 && input.size(-1) == input.size(-2) && input.size(-1) > 0 &&
          start.shape() == input.shape() && start.dtype() == input.dtype() && iterations > 0,
      "iterated_inverse: needs square matrices, a start of their shape and at least one step, got {} {}, {} "
      "{} and {}",
      input.dtype(), input.shape(), start.dtype(), start.shape(), iterations);
  require_one_device("iterated_inverse", {{"matrices", input}, {"start", start}});
  const Tensor matrices = contiguous_constant(input);
  std::vector<Tensor> steps;  // what every step began with
  Tensor z = contiguous_constant(start);
  for (int i = 0; i < iterations; ++i) {
    if (is_recording()) steps.push_back(z);
    const Tensor p = copy_of(z);
    add_product(z, false, inverse_step(matrices, z).outer, false, -13, p);
    z = affine(p, -0.25);
  }
  return record("iterated_inverse", z, {input, start},
                [matrices, steps](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dm = zeros(matrices.shape(), matrices.dtype(), matrices.device());
                  Tensor dz = contiguous_constant(gradient);
                  for (auto z = steps.rbegin(); z != steps.rend(); ++z)
                    dz = inverse_step_backward(matrices, *z, dz, dm);
                  sink.add(0, dm);
                  sink.add(1, dz);
                });
}

}  // namespace tern
