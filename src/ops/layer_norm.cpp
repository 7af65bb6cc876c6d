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
  require(x.rank() > 0 && x.size(-1) > 0 && weight.shape() == Shape{x.size(-1)} &&
              bias.shape() == weight.shape() && is_parameter_for(weight, x) && is_parameter_for(bias, x),
          "{}: weight and bias must be {} [width] of x [..., width], got {} {}, {} {} and {}", op,
          accumulate_type(x.dtype()), weight.dtype(), weight.shape(), bias.dtype(), bias.shape(), x.shape());
  require_one_device(op, {{"x", x}, {"weight", weight}, {"bias", bias}});
}

SavedNorm prepare(const Tensor& x, const Tensor& weight) {
  const Shape rows{x.count() / x.size(-1)};
  return {x, contiguous_constant(weight), empty_sums(rows, x), empty_sums(rows, x)};
}

/// Where a residual branch was added before the norm.
struct Branch {
  RowCoordinates rows;
  DropoutOptions options;
  bool is_wanted;
};
struct NormGradients {
  Tensor x, branch;
};

/// Contributes the gradients of weight and bias (inputs `weight_index` and the next) and returns dx + dtotal
/// and, where it is wanted, the gradient of the branch.
NormGradients norm_backward(const SavedNorm& saved, const Tensor& dy, const Tensor& dtotal,
                            const Branch* branch, GradientSink& sink, int weight_index) {
  const bool has_branch = branch != nullptr && branch->is_wanted;
  const NormGradients out{empty_like(saved.x), has_branch ? empty_like(saved.x) : Tensor()};
  const kernels::DropoutMask mask =
      has_branch ? mask_of(branch->rows, branch->options) : kernels::DropoutMask{};
  const auto sums = [&](int index) {
    const Tensor wanted = gradient_sums(sink, index);
    return wanted.defined() ? wanted : zero_sums(saved.weight.shape(), dy);
  };
  const Tensor dweight = sums(weight_index), dbias = sums(weight_index + 1);
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    using Sum = Accumulate<T>;
    kernels::layer_norm_backward<T>(device, rows_of<const T>(saved.x), saved.weight.data<Sum>(),
                                    {saved.mean.data<Sum>(), saved.inverse_deviation.data<Sum>()}, dy.data<T>(),
                                    data_or_null<T>(dtotal), out.x.data<T>(), mask, data_or_null<T>(out.branch),
                                    dweight.data<Sum>(), dbias.data<Sum>());
  });
  return out;
}

}  // namespace

Tensor layer_norm(const Tensor& input, const Tensor& weight, const Tensor& bias, double epsilon) {
  require_norm_shapes("layer_norm", input, weight, bias);
  if (is_same_value(weight, bias)) return layer_norm(input, weight, affine(bias, 1), epsilon);
  const SavedNorm saved = prepare(contiguous_constant(input), weight);
  const Tensor added = contiguous_constant(bias), y = empty_like(saved.x);
  dispatch(saved.x, [&]<class T>(auto& device, Type<T>) {
    using Sum = Accumulate<T>;
    kernels::layer_norm_forward<T>(device, rows_of<const T>(saved.x), nullptr, {}, nullptr,
                                   saved.weight.data<Sum>(), added.data<Sum>(), static_cast<Sum>(epsilon),
                                   y.data<T>(), {saved.mean.data<Sum>(), saved.inverse_deviation.data<Sum>()});
  });
  return record("layer_norm", y, {input, weight, bias}, [saved](const Tensor& dy, GradientSink& sink) {
    sink.add(0, norm_backward(saved, contiguous_constant(dy), {}, nullptr, sink, 1).x);
  });
}

ResidualNorm residual_dropout_norm(const Tensor& x, const Tensor& branch, const RowCoordinates& rows,
                                   const DropoutOptions& options, const Tensor& weight, const Tensor& bias,
                                   double epsilon) {
  require_norm_shapes("residual_dropout_norm", x, weight, bias);
  require_rate("residual_dropout_norm", options.rate);
  if (is_same_value(weight, bias))
    return residual_dropout_norm(x, branch, rows, options, weight, affine(bias, 1), epsilon);
  require(x.rank() == 2 && branch.shape() == x.shape() && rows.sample.shape() == Shape{x.size(0)} &&
              rows.position.shape() == rows.sample.shape(),
          "residual_dropout_norm: x and branch must be [rows, width] with coordinates for each row, got {}, {} "
          "and {}",
          x.shape(), branch.shape(), rows.sample.shape());
  require_one_device(
      "residual_dropout_norm",
      {{"x", x}, {"branch", branch}, {"samples of rows", rows.sample}, {"positions of rows", rows.position}});
  const Tensor source = contiguous_constant(x), added = contiguous_constant(branch),
               shift = contiguous_constant(bias), y = empty_like(source);
  const SavedNorm saved = prepare(empty_like(source), weight);
  const kernels::DropoutMask mask = mask_of(rows, options);
  dispatch(source, [&]<class T>(auto& device, Type<T>) {
    using Sum = Accumulate<T>;
    kernels::layer_norm_forward<T>(device, rows_of<const T>(source), added.data<T>(), mask, saved.x.data<T>(),
                                   saved.weight.data<Sum>(), shift.data<Sum>(), static_cast<Sum>(epsilon),
                                   y.data<T>(), {saved.mean.data<Sum>(), saved.inverse_deviation.data<Sum>()});
  });
  const std::vector<Tensor> inputs{x, branch, weight, bias};
  const auto outputs =
      record("residual_dropout_norm", {saved.x.detach(), y}, inputs,
             [saved, rows, options](std::span<const Tensor> gradients, GradientSink& sink) {
               const Tensor dtotal = gradients[0].defined() ? contiguous_constant(gradients[0]) : Tensor();
               if (!gradients[1].defined()) {
                 sink.add(0, dtotal);
                 if (sink.wants(1)) sink.add(1, dropout(dtotal, rows, options));
                 return;
               }
               const Branch added_before{rows, options, sink.wants(1)};
               const NormGradients d =
                   norm_backward(saved, contiguous_constant(gradients[1]), dtotal, &added_before, sink, 2);
               sink.add(0, d.x);
               if (added_before.is_wanted) sink.add(1, d.branch);
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
  const Tensor rows = empty(x.shape(), x.dtype(), x.device());
  const Tensor norm = empty_sums({x.size(0), x.size(1), 1}, x), y = rows.reshaped(input.shape());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::unit_rows_forward<T>(device, heads_of<const T>(x), heads_of<T>(rows),
                                  heads_of<Accumulate<T>>(norm));
  });
  return record("unit_rows", y, {input}, [rows, norm](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient).reshaped(rows.shape()), dx = empty_like(rows);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::unit_rows_backward<T>(device, {heads_of<const T>(rows), heads_of<const Accumulate<T>>(norm)},
                                     heads_of<const T>(dy), heads_of<T>(dx));
    });
    sink.add(0, dx.reshaped(gradient.shape()));
  });
}

}  // namespace tern
