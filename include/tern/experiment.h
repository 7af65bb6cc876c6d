// An experiment: its whole configuration, and the task, model and optimizer built from it.
#pragma once

#include "tern/encoder.h"
#include "tern/optimizer.h"
#include "tern/task.h"

namespace tern {

enum class RunDevice { cpu };
constexpr auto enum_names(RunDevice) { return std::array{EnumName{RunDevice::cpu, "cpu"}}; }

struct RunConfig {
  std::uint64_t seed = 0;
  std::int64_t threads = 0;
  RunDevice device = RunDevice::cpu;
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
  void fields(Fields& f);
};

struct ExperimentConfig {
  RunConfig run;
  Choice task{task_choices(), "listops"};
  ModelConfig model;
  OptimizerConfig optimizer;
  Choice schedule{schedule_choices(), "constant"};
  TrainingConfig training;
  void fields(Fields& f);
};

/// Task, model and optimizer of one configuration. Address-stable: random streams point into it.
class Experiment {
 public:
  explicit Experiment(const ExperimentConfig& config, DType dtype = DType::float32);
  Experiment(const Experiment&) = delete;
  Experiment& operator=(const Experiment&) = delete;

  const ExperimentConfig config;
  const Task task;
  StepState state;
  ParameterStore store;
  Model model;
  AdamW optimizer;
  std::unique_ptr<Schedule> schedule;
};

}  // namespace tern
