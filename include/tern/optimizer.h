// AdamW on the flat parameter block, learning-rate schedules, and the record of a step's scalars.
#pragma once

#include "tern/config.h"
#include "tern/module.h"

namespace tern {

/// Everything about a step that changes from step to step, in one place: kernels read `step` through a pointer,
/// and a captured graph would be handed this record by one copy.
struct StepState {
  std::uint32_t step = 0;  ///< updates done; also the random streams' step
  double learning_rate = 0, beta1 = 0;
  double gradient_scale = 1;  ///< 1 / number of targets, times the clip factor
  double gradient_norm = 0;   ///< of the mean gradient, before clipping
  bool is_finite = true;      ///< whether loss and gradient were; the update obeys it
};

struct OptimizerConfig {
  double learning_rate = 1e-4;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-6;
  double weight_decay = 0;
  double clip_norm = 0;
  void fields(Fields& f);
};

/// AdamW (Loshchilov and Hutter 2019, algorithm 2, in PyTorch's form). Weight decay applies to parameters of
/// two or more axes, not to biases and norms.
class AdamW {
 public:
  AdamW(ParameterStore& store, const OptimizerConfig& config);
  /// Scales the gradients by 1 / `targets`, clips them by norm, and updates the parameters; a non-finite
  /// gradient or loss changes nothing. Sets state.gradient_norm, gradient_scale and is_finite; reads
  /// learning_rate and beta1.
  void step(StepState& state, double loss, std::int64_t targets);

  /// Moments, [parameters], in the order of the flat block; and the number of updates applied.
  const Tensor& first_moment() const { return m_; }
  const Tensor& second_moment() const { return v_; }
  std::int64_t updates() const { return updates_; }
  void restore_updates(std::int64_t updates) { updates_ = updates; }

 private:
  struct Range {
    std::int64_t first, count;
    bool decays;
  };
  ParameterStore& store_;
  OptimizerConfig config_;
  std::vector<Range> ranges_;
  Tensor m_, v_;
  std::int64_t updates_ = 0;
};

/// Learning rate and momentum of update `step` (0-based) of `steps`, as multiples of the peak rate.
struct ScheduleValue {
  double rate;
  std::optional<double> beta1;  ///< where the schedule cycles it
};
class Schedule {
 public:
  virtual ~Schedule() = default;
  virtual ScheduleValue at(std::int64_t step, std::int64_t steps) const = 0;
};
/// constant, linear, cosine, inverse_sqrt, one_cycle.
std::span<const ChoiceKind> schedule_choices();
std::unique_ptr<Schedule> make_schedule(const Choice& choice);

}  // namespace tern
