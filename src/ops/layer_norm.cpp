#include "kernels/layer_norm.h"

#include "ops/views.h"

namespace tern {
namespace {

/// What one call keeps for its backward pass.
struct SavedNorm {
  Tensor x, weight, mean, inverse_deviation;
};

void require_norm_shapes(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require_floating(op, x);
  require(
      x.rank() > 0 && x.size(-1) > 0 && weight.shape() == Shape{x.size(-1)} && bias.shape() == weight.shape(),
      "{}: weight and bias must be [width] of x [..., width], got {}, {} and {}", op, weight.shape(),
      bias.shape(), x.shape());
}

SavedNorm prepare(const Tensor& x, const Tensor& weight) {
  const Shape rows{x.count() / x.size(-1)};
  return {x, contiguous_constant(weight), empty(rows, x.dtype(), x.device()),
          empty(rows, x.dtype(), x.device())};
}

/// Contributes the gradients of weight and bias (inputs `weight_index` and the next) and returns dx + dtotal.
Tensor norm_backward(const SavedNorm& saved, const Tensor& dy, const Tensor& dtotal, GradientSink& sink,
                     int weight_index) {
  const Tensor dx = empty_like(saved.x);
  const Tensor dweight = zeros(saved.weight.shape(), dy.dtype(), dy.device()),
               dbias = zeros(dweight.shape(), dy.dtype(), dy.device());
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    kernels::layer_norm_backward<T>(device, rows_of<const T>(saved.x), saved.weight.data<T>(),
                                    {saved.mean.data<T>(), saved.inverse_deviation.data<T>()}, dy.data<T>(),
                                    dtotal.defined() ? dtotal.data<T>() : nullptr, dx.data<T>(),
                                    dweight.data<T>(), dbias.data<T>());
  });
  sink.add(weight_index, dweight);
  sink.add(weight_index + 1, dbias);
  return dx;
}

}  // namespace

Tensor layer_norm(const Tensor& input, const Tensor& weight, const Tensor& bias, double epsilon) {
  require_norm_shapes("layer_norm", input, weight, bias);
  const SavedNorm saved = prepare(contiguous_constant(input), weight);
  const Tensor added = contiguous_constant(bias), y = empty_like(saved.x);
  dispatch(saved.x, [&]<class T>(auto& device, Type<T>) {
    kernels::layer_norm_forward<T>(device, rows_of<const T>(saved.x), nullptr, {}, nullptr,
                                   saved.weight.data<T>(), added.data<T>(), static_cast<T>(epsilon),
                                   y.data<T>(), {saved.mean.data<T>(), saved.inverse_deviation.data<T>()});
  });
  return record("layer_norm", y, {input, weight, bias}, [saved](const Tensor& dy, GradientSink& sink) {
    sink.add(0, norm_backward(saved, contiguous_constant(dy), {}, sink, 1));
  });
}

ResidualNorm residual_dropout_norm(const Tensor& x, const Tensor& branch, const RowCoordinates& rows,
                                   const DropoutOptions& options, const Tensor& weight, const Tensor& bias,
                                   double epsilon) {
  require_norm_shapes("residual_dropout_norm", x, weight, bias);
  require_rate("residual_dropout_norm", options.rate);
  require(x.rank() == 2 && branch.shape() == x.shape() && rows.sample.shape() == Shape{x.size(0)} &&
              rows.position.shape() == rows.sample.shape(),
          "residual_dropout_norm: x and branch must be [rows, width] with coordinates for each row, got {}, {} "
          "and {}",
          x.shape(), branch.shape(), rows.sample.shape());
  const Tensor source = contiguous_constant(x), added = contiguous_constant(branch),
               shift = contiguous_constant(bias), y = empty_like(source);
  const SavedNorm saved = prepare(empty_like(source), weight);
  const kernels::DropoutMask mask = mask_of(rows, options);
  dispatch(source, [&]<class T>(auto& device, Type<T>) {
    kernels::layer_norm_forward<T>(device, rows_of<const T>(source), added.data<T>(), mask, saved.x.data<T>(),
                                   saved.weight.data<T>(), shift.data<T>(), static_cast<T>(epsilon),
                                   y.data<T>(), {saved.mean.data<T>(), saved.inverse_deviation.data<T>()});
  });
  const std::vector<Tensor> inputs{x, branch, weight, bias};
  const auto outputs =
      record("residual_dropout_norm", {saved.x.detach(), y}, inputs,
             [saved, rows, options](std::span<const Tensor> gradients, GradientSink& sink) {
               Tensor dtotal = gradients[0].defined() ? contiguous_constant(gradients[0]) : Tensor();
               if (gradients[1].defined())
                 dtotal = norm_backward(saved, contiguous_constant(gradients[1]), dtotal, sink, 2);
               sink.add(0, dtotal);
               if (sink.wants(1)) sink.add(1, dropout(dtotal, rows, options));
             });
  return {outputs[0], outputs[1]};
}

Tensor unit_rows(const Tensor& input) {
  require_floating("unit_rows", input);
  require(input.rank() > 0 && input.size(-1) > 0, "unit_rows: the last axis must not be empty, got shape {}",
          input.shape());
  const bool is_head_view = input.rank() == 3 && input.strides()[2] == 1;
  const Tensor x =
      is_head_view ? input.detach()
                   : contiguous_constant(input).reshaped({input.count() / input.size(-1), 1, input.size(-1)});
  const Tensor y = empty(input.shape(), input.dtype(), input.device());
  const Tensor norm = empty({x.size(0) * x.size(1)}, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::unit_rows_forward<T>(device, heads_of<const T>(x), y.data<T>(), norm.data<T>());
  });
  return record("unit_rows", y, {input}, [y, norm](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty_like(y);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::unit_rows_backward<T>(device, norm.count(), y.size(-1), y.data<T>(), norm.data<T>(),
                                     dy.data<T>(), dx.data<T>());
    });
    sink.add(0, dx);
  });
}

}  // namespace tern
