#include "tern/trainer.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "data/loader.h"
#include "io/atomic_file.h"
#include "tern/logging.h"
#include "training/evaluator.h"
#include "training/progress_line.h"
#include "training/run_files.h"
#include "training/run_folder.h"
#include "training/run_report.h"
#include "training/splits.h"
#include "training/start.h"
#include "training/step_runner.h"

namespace tern {
namespace {

constexpr int failed_saves_allowed = 3;
constexpr auto stopped_text = "stopped by a signal after step {}, saved; run the command again to continue";

}  // namespace

struct Trainer::State {
  Experiment& experiment;
  Communicator& communicator;
  std::shared_ptr<const data::RecordFile> train, dev, test;  // before the folder: no data, no folder
  data::TrainLoader loader;
  RunFolder folder;
  GraphCache graphs;
  StepRunner runner;
  Evaluator evaluator;
  Progress progress;
  ProgressLine line;
  Clock::time_point started = Clock::now();
  double seconds_before = 0;  ///< spent by earlier parts of this run
  std::int64_t first_step = 0;
  int failed_saves = 0;
  Progress before_evaluation;  ///< what was best before, should the new best not reach the disk

  State(Experiment& e, Communicator& c, const RunOptions& options)
      : experiment(e),
        communicator(c),
        train(open_split(e.task.train, e.task)),
        dev(open_split(e.task.dev, e.task)),
        test(open_split(e.task.test, e.task)),
        loader(train, training_loader_options(e, c)),
        folder(options.folder, e.config, e.task),
        graphs(e.device(), e.config.run.graphs),
        runner(
            e, c, [this] { return loader.next(); }, graphs),
        evaluator(e, graphs) {}

  const TrainingConfig& training() const { return experiment.config.training; }
  void require_space() const;
  void restore(const RunOptions& options);
  void forget_lost_best();
  std::int64_t launched() const { return progress.step + static_cast<std::int64_t>(runner.pending()); }
  void launch();
  /// Takes outcomes until at most `pending` are left.
  void settle(std::size_t pending);
  void record(const StepOutcome& outcome);
  void tell_anomaly(const StepOutcome& outcome);
  std::string last_good_checkpoint() const;
  void report(const StepOutcome& outcome);
  bool is_evaluation_due() const;
  /// Whether the outcome of the last update launched must be known before the next.
  bool must_settle() const;
  void evaluate_dev();
  /// Nothing is trained after a last save, so its failure is the run's.
  void save(bool is_last);
  void save_if_due();
  void stop_if_requested();
  RunResult finish();
};

void Trainer::State::require_space() const {
  // Those that a resumed run already holds give way to new ones; one more is written before the oldest goes.
  const auto held = static_cast<std::int64_t>(list_checkpoints(folder.checkpoints()).size());
  const std::int64_t coming = std::max<std::int64_t>(1, training().keep_checkpoints + 2 - held);
  const std::int64_t needed = checkpoint_bytes(experiment) * coming, there = io::free_bytes(folder.path());
  if (there < needed)
    throw_error(ExitCode::cannot_create,
                "{}: {} KiB must be free for {} checkpoints, got {}; free space or set --out", folder.path(),
                (needed >> 10) + 1, coming, there >> 10);
}

void Trainer::State::restore(const RunOptions& options) {
  std::optional<Progress> found;
  const bool has_start = !training().start_from.empty();
  if (options.resume == ResumeMode::path) {
    const std::filesystem::path origin = run_of_checkpoint(options.checkpoint);
    require_task_of_run(origin, experiment.task);
    found = load_checkpoint(options.checkpoint, experiment);
    if (has_start) keep_start(origin, folder);
    set_newer_aside(folder.checkpoints(), found->step);
  }
  if (options.resume == ResumeMode::newest) found = resume_newest(folder.checkpoints(), experiment);
  if (options.resume == ResumeMode::newest && found && has_start) keep_start(folder.path(), folder);
  if (options.resume == ResumeMode::none && !list_checkpoints(folder.checkpoints()).empty())
    throw_error(ExitCode::cannot_create, "{}: holds checkpoints already; resume it, or choose another --out",
                folder.path());
  if (found) {
    progress = *found;
    loader.restore(progress.position);
    forget_lost_best();
    logging::info("train", "continuing after step {} of {}", progress.step, training().steps);
  } else {
    if (has_start) folder.write_json(start_file, start_from(training().start_from, experiment.store));
    save_parameters(folder.file("initial.safetensors"), experiment.store);
  }
  experiment.state.set_step(static_cast<std::uint32_t>(progress.step));
  first_step = progress.step;
  seconds_before = progress.elapsed_seconds;
  if (progress.step < training().steps) folder.set_result_aside(progress.step);
  folder.open_metrics(progress.step);
}

/// A fall-back or another folder may lack the best checkpoint: an evaluation, due at once, replaces it.
void Trainer::State::forget_lost_best() {
  if (progress.best_step == 0) return;
  const CheckpointStatus status = verify_checkpoint(checkpoint_path(folder.checkpoints(), progress.best_step));
  if (status.fault.empty()) return;
  logging::warning("checkpoint", "the best one on dev (step {}) is lost, evaluating anew: {}",
                   progress.best_step, status.fault);
  progress.best_step = 0;
  progress.best_accuracy = progress.best_loss = 0;
  progress.evaluation_is_due = true;
}

void Trainer::State::launch() {
  const std::int64_t step = launched();
  const OptimizerConfig& optimizer = experiment.config.optimizer;
  const ScheduleValue scheduled = experiment.schedule->at(step, training().steps);
  with_context([&] { return format_text("step {}", step + 1); },
               [&] {
                 runner.launch(static_cast<std::uint32_t>(step), optimizer.learning_rate * scheduled.rate,
                               scheduled.beta1.value_or(optimizer.beta1));
               });
}

void Trainer::State::settle(std::size_t pending) {
  while (runner.pending() > pending)
    with_context([&] { return format_text("step {}", progress.step + 1); }, [&] { record(runner.take()); });
  if (runner.pending() > 0) return;
  synchronize(experiment.device());  // throws what kernels met
  // What comes between two updates draws from the number of updates done.
  experiment.state.set_step(static_cast<std::uint32_t>(progress.step));
}

void Trainer::State::record(const StepOutcome& outcome) {
  ++progress.step;
  progress.position += training().batch_size;
  if (outcome.state.is_finite) {
    progress.skipped_in_a_row = 0;
  } else {
    ++progress.skipped;
    ++progress.skipped_in_a_row;
    tell_anomaly(outcome);
  }
  report(outcome);
}

void Trainer::State::tell_anomaly(const StepOutcome& outcome) {
  const std::string name = write_anomaly(folder, progress.step, outcome, experiment.store);
  logging::warning("train",
                   "step {}: loss or gradient is not finite; update skipped ({} in a row), batch named in {}",
                   progress.step, progress.skipped_in_a_row, name);
  if (progress.skipped_in_a_row >= training().max_skipped)
    throw_error(ExitCode::diverged,
                "step {}: loss or gradient was not finite {} times in a row; last good checkpoint: {}; lower "
                "optimizer.learning_rate or set optimizer.clip_norm",
                progress.step, progress.skipped_in_a_row, last_good_checkpoint());
}

/// The newest complete one from before the present row of skipped updates.
std::string Trainer::State::last_good_checkpoint() const {
  std::string good = "none yet";
  for (const CheckpointStatus& status : list_checkpoints(folder.checkpoints()))
    if (status.fault.empty() && status.step <= progress.step - progress.skipped_in_a_row)
      good = status.path.string();
  return good;
}

void Trainer::State::report(const StepOutcome& outcome) {
  const StepState& state = outcome.state;
  const double seconds = seconds_since(started), steps = static_cast<double>(progress.step - first_step);
  const double targets = std::max(state.score.examples, 1.0), loss = state.score.loss / targets;
  const std::optional<double> accuracy =
      experiment.objective->has_accuracy() ? std::optional(state.score.correct / targets) : std::nullopt;
  const auto tokens = static_cast<double>(outcome.tokens);
  if (line.is_due(progress.step == training().steps))
    line.show({progress.step, training().steps, loss, accuracy, tokens * steps / seconds, steps / seconds,
               runner.peak_bytes()});
  if (progress.step % training().log_every != 0 && progress.step != training().steps) return;
  io::Json row{{"kind", "train"}, {"step", progress.step}, {"loss", loss}};
  if (accuracy) row["accuracy"] = *accuracy;
  row.update({{"learning_rate", state.learning_rate},
              {"beta1", state.beta1},
              {"gradient_norm", state.gradient_norm},
              {"skipped", progress.skipped},
              {"tokens", tokens},
              {"seconds", seconds_before + seconds}});
  if (training().log_samples) row["samples"] = outcome.samples;
  folder.write_row(row);
}

bool Trainer::State::is_evaluation_due() const {
  return progress.step % training().evaluate_every == 0 || progress.step == training().steps;
}

bool Trainer::State::must_settle() const {
  const std::int64_t done = launched();
  return stop_requested() || done == training().steps || done % training().evaluate_every == 0 ||
         done % training().checkpoint_every == 0;
}

void Trainer::State::evaluate_dev() {
  const auto began = Clock::now();
  const Score score = evaluator.score(dev, training().evaluate_batches).all;
  progress.evaluation_seconds += seconds_since(began);
  progress.evaluation_is_due = stop_requested();
  if (progress.evaluation_is_due) return;
  before_evaluation = progress;
  const Objective& objective = *experiment.objective;
  const Score best{.loss = progress.best_loss, .accuracy = progress.best_accuracy};
  const bool is_better =
      std::isfinite(score.loss) && (progress.best_step == 0 || objective.is_better(score, best));
  line.finish();
  logging::info("dev", "step {}: {}{}", progress.step, score_text(score, objective), is_better ? ", best" : "");
  io::Json row{{"kind", "dev"}, {"step", progress.step}};
  row.update(score_json(score, objective));
  row["seconds"] = seconds_before + seconds_since(started);
  folder.write_row(row);
  if (!is_better) return;
  progress.best_step = progress.step;
  progress.best_accuracy = score.accuracy;
  progress.best_loss = score.loss;
}

void Trainer::State::save(bool is_last) {
  folder.require_held();
  progress.elapsed_seconds = seconds_before + seconds_since(started);
  try {
    save_checkpoint(folder.checkpoints(), experiment, progress);
    failed_saves = 0;
  } catch (const Error& error) {
    if (is_last || ++failed_saves >= failed_saves_allowed) throw;
    logging::warning("checkpoint", "step {} could not be saved, training goes on: {}", progress.step,
                     error.what());
    if (progress.best_step != progress.step) return;
    progress.best_step = before_evaluation.best_step;
    progress.best_accuracy = before_evaluation.best_accuracy;
    progress.best_loss = before_evaluation.best_loss;
    return;
  }
  try {
    rotate_checkpoints(folder.checkpoints(), training().keep_checkpoints, progress.best_step);
  } catch (const Error& error) {
    logging::warning("checkpoint", "old ones could not be removed: {}", error.what());
  }
}

void Trainer::State::save_if_due() {
  const bool is_last = progress.step == training().steps, is_best = progress.best_step == progress.step;
  if (progress.evaluation_is_due) return;  // stop_if_requested() saves
  // While updates are being skipped, nothing new is worth the place of a checkpoint from before.
  const bool is_periodic = progress.step % training().checkpoint_every == 0 && progress.skipped_in_a_row == 0;
  if (is_best || is_periodic || is_last) save(is_last);
}

void Trainer::State::stop_if_requested() {
  if (!stop_requested()) return;
  line.finish();
  save(true);
  throw_error(ExitCode::interrupted, stopped_text, progress.step);
}

RunResult Trainer::State::finish() {
  line.finish();
  RunResult result{progress, {}, {}, 0, fingerprint(experiment, progress)};
  if (progress.best_step > 0) {
    logging::info("test", "scoring the best checkpoint on dev, step {}", progress.best_step);
    load_parameters(checkpoint_path(folder.checkpoints(), progress.best_step), experiment.store);
    experiment.state.set_step(static_cast<std::uint32_t>(progress.best_step));
  } else {
    logging::warning("test", "no evaluation on dev gave a finite loss: scoring the last parameters");
  }
  const auto began = Clock::now();
  result.test = evaluator.score(test);
  result.test_seconds = seconds_since(began);
  const TaskInterface& task = experiment.task.interface;
  if (!task.is_regression && !task.predicts_tokens) result.test_majority = majority_share(*test);
  // The parameters are the best ones now, not the last: nothing may be saved any more, and the last are.
  if (stop_requested()) throw_error(ExitCode::interrupted, stopped_text, progress.step);
  io::Json written =
      result_json(experiment, result, seconds_before + seconds_since(started), runner.peak_bytes());
  if (!training().start_from.empty()) written["start"] = read_start(folder.path());
  folder.write_json("result.json", written);
  return result;
}

Trainer::Trainer(Experiment& experiment, Communicator& communicator, const RunOptions& options)
    : state_(std::make_unique<State>(experiment, communicator, options)) {
  state_->require_space();
  state_->restore(options);
}
Trainer::~Trainer() = default;

void Trainer::step() {
  state_->launch();
  state_->settle(0);
}

RunResult Trainer::run() {
  State& state = *state_;
  const TrainingConfig& training = state.training();
  if (state.progress.evaluation_is_due) {
    state.evaluate_dev();
    state.stop_if_requested();
    state.save(state.progress.step == training.steps);
  }
  while (state.launched() < training.steps) {
    state.launch();
    const std::size_t pending = state.must_settle() ? 0 : state.runner.most_pending();
    state.settle(pending);
    if (pending > 0) continue;
    if (state.is_evaluation_due()) state.evaluate_dev();
    state.save_if_due();
    state.stop_if_requested();
  }
  return state.finish();
}

}  // namespace tern
