// An experiment: its whole configuration, and the task, model and optimizer built from it.
#pragma once

#include "tern/objective.h"
#include "tern/optimizer.h"
#include "tern/task.h"

namespace tern {

enum class RunDevice { automatic, cpu, cuda };
constexpr auto enum_names(RunDevice) {
  return std::array{EnumName{RunDevice::automatic, "auto"}, EnumName{RunDevice::cpu, "cpu"},
                    EnumName{RunDevice::cuda, "cuda"}};
}

enum class RunPrecision { automatic, float32, tf32, bfloat16 };
constexpr auto enum_names(RunPrecision) {
  return std::array{EnumName{RunPrecision::automatic, "auto"}, EnumName{RunPrecision::float32, "float32"},
                    EnumName{RunPrecision::tf32, "tf32"}, EnumName{RunPrecision::bfloat16, "bfloat16"}};
}

struct RunConfig {
  std::uint64_t seed = 0;
  std::int64_t threads = 0;
  RunDevice device = RunDevice::automatic;
  RunPrecision precision = RunPrecision::automatic;
  bool deterministic = false;
  bool graphs = true;
  std::filesystem::path out = "runs";
  std::string name;
  void fields(Fields& f);
};

struct TrainingConfig {
  std::int64_t steps = 1000;
  std::int64_t batch_size = 32;
  std::int64_t accumulate = 1;
  std::int64_t evaluate_every = 200;
  std::int64_t evaluate_batches = 0;
  std::int64_t checkpoint_every = 200;
  std::int64_t keep_checkpoints = 2;
  std::int64_t log_every = 10;
  bool log_samples = false;
  std::int64_t max_skipped = 10;
  std::filesystem::path start_from;
  void fields(Fields& f);
};

struct ExperimentConfig {
  RunConfig run;
  Choice task{task_choices(), "listops"};
  ModelConfig model;
  Choice objective{objective_choices(), "labels"};
  OptimizerConfig optimizer;
  Choice schedule{schedule_choices(), "constant"};
  TrainingConfig training;
  void fields(Fields& f);
};

/// The same with device and precision in place of "auto": a GPU and bfloat16 where there is one, else the CPU
/// and float32. Throws Error(bad_config) for a precision that the device does not have.
RunConfig resolved(RunConfig config);
/// What a model computes in with a resolved precision.
DType model_type(RunPrecision precision);
/// Where a resolved configuration computes.
Device device_of(const RunConfig& config);

/// Task, model and optimizer of one configuration. Address-stable: random streams point into it.
class Experiment {
 public:
  /// `dtype` replaces the type that run.precision stands for. Sets the options of all CUDA kernels. Throws
  /// Error(failed) where run.device is cuda and no GPU can be used.
  explicit Experiment(const ExperimentConfig& config, std::optional<DType> dtype = {});
  /// On another task than the configured one.
  Experiment(const ExperimentConfig& config, const Task& task, std::optional<DType> dtype = {});
  Experiment(const Experiment&) = delete;
  Experiment& operator=(const Experiment&) = delete;

  Device device() const { return store.device(); }

  const ExperimentConfig config;  ///< with device and precision resolved
  const Task task;                ///< as the objective trains on it
  StepMemory state;
  ParameterStore store;
  Model model;
  const std::unique_ptr<const Objective> objective;
  AdamW optimizer;
  std::unique_ptr<Schedule> schedule;
};

}  // namespace tern
