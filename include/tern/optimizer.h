// AdamW on the flat parameter block, learning-rate schedules, and the record of a step in the device's memory.
#pragma once

#include "tern/config.h"
#include "tern/module.h"
#include "tern/step_state.h"

namespace tern {

/// The StepState of a run, in memory of the device that computes. On a GPU writes are enqueued and read()
/// waits; on the CPU everything happens at once.
class StepMemory {
 public:
  explicit StepMemory(Device device = {});
  ~StepMemory();
  StepMemory(const StepMemory&) = delete;
  StepMemory& operator=(const StepMemory&) = delete;

  /// For kernels; on a GPU the host may not follow it.
  StepState* state() const { return state_; }
  /// For random streams.
  const std::uint32_t* step() const { return &state_->step; }
  ScoreTotals* score() const { return &state_->score; }
  Device device() const { return device_; }

  /// The inputs of update `step`; clears the score.
  void begin(std::uint32_t step, double learning_rate, double beta1);
  /// Sets the step alone: what random streams draw from.
  void set_step(std::uint32_t step);
  /// Sets the number of updates applied.
  void set_updates(std::int64_t updates);
  /// Everything, once all work enqueued so far is done.
  StepState read() const;

 private:
  struct Outbox;
  void send(std::size_t offset, const void* source, std::size_t bytes);

  Device device_;
  Tensor memory_;
  StepState* state_;
  std::unique_ptr<Outbox> outbox_;  ///< on a GPU
};

/// What weight decay applies to: parameters of two or more axes, or all, biases and norms too.
enum class DecayedParameters { matrices, all };
constexpr auto enum_names(DecayedParameters) {
  return std::array{EnumName{DecayedParameters::matrices, "matrices"}, EnumName{DecayedParameters::all, "all"}};
}

struct OptimizerConfig {
  double learning_rate = 1e-4;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-6;
  double weight_decay = 0;
  DecayedParameters decayed = DecayedParameters::matrices;
  double clip_norm = 0;
  void fields(Fields& f);
};

/// AdamW (Loshchilov and Hutter 2019, algorithm 2, in PyTorch's form).
class AdamW {
 public:
  AdamW(ParameterStore& store, const OptimizerConfig& config);
  /// Scales the gradients by 1 / score.examples, clips them by norm, and updates the parameters and
  /// state.updates; parameters that are moving averages (Parameter::decay) take their own step and count in no
  /// norm; a non-finite gradient or loss changes nothing. Reads learning_rate, beta1 and score of
  /// `state`; sets gradient_norm, gradient_scale and is_finite. Enqueues its work and does not wait.
  void step(StepMemory& state);

  /// Moments, laid out as store.values() and of its type.
  const Tensor& first_moment() const { return m_; }
  const Tensor& second_moment() const { return v_; }
  /// Sums of squares of the last step's gradients by chunk: [chunks] float64.
  const Tensor& squares() const { return squares_; }
  /// The norm of each parameter's gradient, in the order of store.parameters(), from a host copy of squares().
  std::vector<double> gradient_norms(std::span<const double> squares) const;

 private:
  ParameterStore& store_;
  OptimizerConfig config_;
  std::vector<std::int32_t> chunk_parameter_;  ///< place in store.parameters() of each chunk
  Tensor chunks_;                              ///< kernels::UpdateChunk records, as bytes
  Tensor m_, v_, squares_;
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
