// The training loop. It knows task, model and communicator by their interfaces and no mechanism by name.
#pragma once

#include <memory>

#include "tern/checkpoint.h"
#include "tern/communicator.h"
#include "tern/experiment.h"

namespace tern {

namespace data {
struct Batch;
class RecordFile;
class TrainLoader;
}  // namespace data

struct TestScore {
  Score all;        ///< every example
  Score drop_last;  ///< without the last partial batch, as published protocols count
};

/// Where a run goes on: at its newest complete checkpoint, if it has one; nowhere (a folder with checkpoints is
/// refused); or at the checkpoint that RunOptions names.
enum class ResumeMode { newest, none, path };
struct RunOptions {
  std::filesystem::path folder;  ///< run folder, made if need be
  ResumeMode resume = ResumeMode::newest;
  std::filesystem::path checkpoint;  ///< for ResumeMode::path
};

struct RunResult {
  Progress progress;
  TestScore test;                       ///< of the best checkpoint on dev
  std::optional<double> test_majority;  ///< share of the most frequent test label, where labels are classes
  double test_seconds = 0;              ///< spent on scoring the test split
  std::string fingerprint;
};

class Trainer {
 public:
  /// Opens data and run folder, resumes as `options` say, and writes the configuration and environment. Errors:
  /// missing_input without data, cannot_create for a folder that cannot be written or lacks space for
  /// training.keep_checkpoints + 2 checkpoints, bad_config when a resumed run's configuration differs in a key
  /// that may not.
  Trainer(Experiment& experiment, Communicator& communicator, const RunOptions& options);
  ~Trainer();
  /// Trains to training.steps, then scores the best checkpoint on the test split and writes result.json. Throws
  /// Error(interrupted) after saving when a signal asked for it, Error(diverged) after training.max_skipped
  /// non-finite updates in a row.
  RunResult run();
  /// One update from the next batch.
  void step();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Sets a flag that the loops look at, on SIGINT, SIGTERM, SIGHUP and SIGUSR1; a second SIGINT ends the process
/// at once.
void install_signal_handlers();
bool stop_requested();

}  // namespace tern
