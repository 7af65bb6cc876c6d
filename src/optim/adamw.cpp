#include <cmath>
#include <limits>

#include "core/dispatch.h"
#include "kernels/update.h"
#include "tern/optimizer.h"

namespace tern {

void OptimizerConfig::fields(Fields& f) {
  f("learning_rate", learning_rate, "peak learning rate", positive());
  f("beta1", beta1, "decay of the first moment, unless the schedule cycles it", at_least(0) && below(1));
  f("beta2", beta2, "decay of the second moment", at_least(0) && below(1));
  f("epsilon", epsilon, "added to the root of the second moment", at_least(1e-30));
  f("weight_decay", weight_decay, "decoupled decay of matrices and tables", at_least(0));
  f("clip_norm", clip_norm, "largest norm of the mean gradient; 0 means no clipping", at_least(0));
}

AdamW::AdamW(ParameterStore& store, const OptimizerConfig& config)
    : store_(store),
      config_(config),
      m_(zeros(store.values().shape(), store.dtype(), store.device())),
      v_(zeros(store.values().shape(), store.dtype(), store.device())) {
  ensure(store.values().defined(), "AdamW: the parameters must be flattened first");
  std::int64_t first = 0;
  const auto& parameters = store.parameters();
  for (auto parameter = parameters.rbegin(); parameter != parameters.rend();
       ++parameter) {  // the flat block's order
    const std::int64_t count = parameter->value.count();
    const bool decays = parameter->value.rank() >= 2;
    if (!ranges_.empty() && ranges_.back().decays == decays)
      ranges_.back().count += count;
    else
      ranges_.push_back({first, count, decays});
    first += count;
  }
}

void AdamW::step(StepState& state, double loss, std::int64_t targets) {
  const Tensor &gradient = store_.gradients(), &values = store_.values();
  dispatch(values, [&]<class T>(auto& device, Type<T>) {
    const double mean = 1.0 / static_cast<double>(std::max<std::int64_t>(targets, 1));
    state.gradient_norm =
        mean * std::sqrt(kernels::sum_of_squares<T>(device, gradient.count(), gradient.data<T>()));
    const bool is_clipped = config_.clip_norm > 0 && state.gradient_norm > config_.clip_norm;
    const double applied_norm = is_clipped ? config_.clip_norm : state.gradient_norm;
    // The square goes into the second moment and must not overflow there.
    state.is_finite = std::isfinite(state.gradient_norm) && std::isfinite(loss) &&
                      applied_norm * applied_norm <= static_cast<double>(std::numeric_limits<T>::max());
    if (!state.is_finite) return;
    state.gradient_scale = is_clipped ? mean * config_.clip_norm / state.gradient_norm : mean;
    ++updates_;
    const auto count = static_cast<double>(updates_);
    kernels::AdamStep update{state.learning_rate,
                             state.beta1,
                             config_.beta2,
                             config_.epsilon,
                             0,
                             1 - std::pow(state.beta1, count),
                             1 - std::pow(config_.beta2, count),
                             state.gradient_scale};
    for (const Range& range : ranges_) {
      update.weight_decay = range.decays ? config_.weight_decay : 0;
      kernels::adamw<T>(device, range.count, update, gradient.data<T>() + range.first,
                        m_.data<T>() + range.first, v_.data<T>() + range.first, values.data<T>() + range.first);
    }
  });
}

}  // namespace tern
