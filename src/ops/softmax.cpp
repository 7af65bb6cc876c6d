#include "kernels/softmax.h"

#include "ops/views.h"

namespace tern {

Tensor softmax(const Tensor& input) {
  require_floating("softmax", input);
  require(input.rank() > 0 && input.size(-1) > 0, "softmax: the last axis must not be empty, got shape {}",
          input.shape());
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::softmax_forward<T>(device, rows_of<const T>(x), rows_of<T>(y));
  });
  return record("softmax", y, {input}, [y](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient), dx = empty_like(dy);
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      kernels::softmax_backward<T>(device, rows_of<const T>(y), rows_of<const T>(dy), rows_of<T>(dx));
    });
    sink.add(0, dx);
  });
}

namespace {

/// The loss of each row, [rows]; a score takes those whose weight is 1, all without weights.
Tensor row_losses(const Tensor& input, const Tensor& classes, const Tensor& weights, ScoreTotals* score) {
  require_floating("cross_entropy", input);
  require(input.rank() == 2 && classes.shape() == Shape{input.size(0)} && input.size(1) > 0,
          "cross_entropy: needs logits [rows, classes] and labels [rows], got {} and {}", input.shape(),
          classes.shape());
  require_one_device("cross_entropy", {{"logits", input}, {"labels", classes}, {"weights", weights}});
  const Tensor labels = contiguous_constant(classes), logits = contiguous_constant(input),
               loss = empty_sums({input.size(0)}, input);
  dispatch(logits, [&]<class T>(auto& device, Type<T>) {
    const auto* label = labels.data<std::int32_t>();
    const std::int64_t bad =
        kernels::cross_entropy_forward<T>(device, rows_of<const T>(logits), label, loss.data<Accumulate<T>>());
    require(bad < 0, "cross_entropy: label {} of row {} is not one of {} classes", bad < 0 ? 0 : label[bad],
            bad, input.size(1));
    if (score != nullptr)
      kernels::add_score<T>(device, rows_of<const T>(logits), label, loss.data<Accumulate<T>>(),
                            data_or_null<Accumulate<T>>(weights), score);
  });
  return record("cross_entropy", loss, {input}, [logits, labels](const Tensor& gradient, GradientSink& sink) {
    const Tensor dloss = contiguous_constant(gradient), dx = empty_like(logits);
    dispatch(logits, [&]<class T>(auto& device, Type<T>) {
      kernels::cross_entropy_backward<T>(device, rows_of<const T>(logits), labels.data<std::int32_t>(),
                                         dloss.data<Accumulate<T>>(), rows_of<T>(dx));
    });
    sink.add(0, dx);
  });
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, ScoreTotals* score) {
  return sum(row_losses(logits, labels, {}, score));
}

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& weights, ScoreTotals* score) {
  require(weights.shape() == labels.shape() && weights.dtype() == accumulate_type(logits.dtype()) &&
              weights.is_contiguous(),
          "cross_entropy: weights must be contiguous {} {}, got {} {}", accumulate_type(logits.dtype()),
          labels.shape(), weights.dtype(), weights.shape());
  const Tensor chosen = weights.detach();
  return sum(multiply(row_losses(logits, labels, chosen, score), chosen));
}

Tensor squared_error(const Tensor& prediction, const Tensor& target, ScoreTotals* score) {
  require_floating("squared_error", prediction);
  require_floating("squared_error", target);
  require(prediction.rank() == 1 && prediction.shape() == target.shape(),
          "squared_error: needs a prediction and a target [rows], got {} and {}", prediction.shape(),
          target.shape());
  require_one_device("squared_error", {{"prediction", prediction}, {"target", target}});
  const DType dtype = accumulate_type(prediction.dtype());
  const Tensor errors = square(subtract(cast(prediction, dtype), cast(target.detach(), dtype)));
  if (score != nullptr)
    dispatch(errors, [&]<class A>(auto& device, Type<A>) {
      if constexpr (!std::is_same_v<A, bfloat16>)
        kernels::add_losses<A>(device, errors.data<A>(), errors.count(), score);
    });
  return sum(errors);
}

}  // namespace tern
