#include "tern/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "data/loader.h"
#include "io/atomic_file.h"
#include "tern/logging.h"
#include "tern/memory.h"
#include "tern/ops.h"
#include "training/device_batch.h"
#include "training/progress_line.h"
#include "training/run_folder.h"

namespace tern {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int failed_saves_allowed = 3;

/// What one update saw, over all micro-batches and ranks.
struct StepTotals {
  double loss = 0, correct = 0, examples = 0, tokens = 0;
  std::vector<std::int64_t> samples;
};

std::shared_ptr<const data::RecordFile> open_split(const std::filesystem::path& path, const Task& task) {
  if (!std::filesystem::exists(path))
    throw_error(ExitCode::missing_input, "{}: the prepared data are missing; make them with: {}", path, task.prepare_command);
  auto file = std::make_shared<const data::RecordFile>(path);
  if (file->header().vocabulary > task.interface.vocabulary)
    throw_error(ExitCode::bad_data, "{}: holds ids up to {}, but task.vocabulary is {}", path,
                file->header().vocabulary - 1, task.interface.vocabulary);
  return file;
}

data::LoaderOptions loader_options(const Experiment& experiment, const Communicator& communicator) {
  const TrainingConfig& training = experiment.config.training;
  data::LoaderOptions options;
  options.batch_size = training.batch_size / training.accumulate;
  options.max_length = experiment.task.max_length;
  options.padded_length = experiment.task.interface.padded_length;
  options.mask_zero = experiment.task.mask_zero;
  options.seed = experiment.config.run.seed;
  options.rank = communicator.rank();
  options.world_size = communicator.size();
  return options;
}

double majority_share(const data::RecordFile& file) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(file.header().classes));
  for (std::int64_t r = 0; r < file.count(); ++r) ++counts[static_cast<std::size_t>(file.label(r))];
  return static_cast<double>(*std::max_element(counts.begin(), counts.end())) / static_cast<double>(file.count());
}

io::Json score_json(const Score& score) {
  return {{"examples", score.examples}, {"loss", score.loss}, {"accuracy", score.accuracy}};
}

}  // namespace

struct Trainer::State {
  Experiment& experiment;
  Communicator& communicator;
  RunFolder folder;
  std::shared_ptr<const data::RecordFile> train, test;
  data::TrainLoader loader;
  Progress progress;
  ProgressLine line;
  Clock::time_point started = Clock::now();
  double seconds_before = 0;  ///< spent by earlier parts of this run
  std::int64_t first_step = 0;
  int failed_saves = 0;

  State(Experiment& e, Communicator& c, const RunOptions& options)
      : experiment(e),
        communicator(c),
        folder(options.folder, e.config),
        train(open_split(e.task.train, e.task)),
        test(open_split(e.task.test, e.task)),
        loader(train, loader_options(e, c)) {
    open_split(e.task.dev, e.task);
  }

  const TrainingConfig& training() const { return experiment.config.training; }
  void require_space() const;
  void restore(const RunOptions& options);
  StepTotals accumulate();
  void update(const StepTotals& totals);
  void dump_anomaly(const StepTotals& totals);
  void report(const StepTotals& totals);
  void evaluate_dev();
  void save();
  void stop_if_requested();
  RunResult finish();
};

void Trainer::State::require_space() const {
  const std::int64_t needed = checkpoint_bytes(experiment) * (training().keep_checkpoints + 2);
  const std::int64_t there = io::free_bytes(folder.path());
  if (there < needed)
    throw_error(ExitCode::cannot_create, "{}: {} MiB must be free for {} checkpoints, got {} MiB; free space or set --out",
                folder.path(), (needed >> 20) + 1, training().keep_checkpoints + 2, there >> 20);
}

void Trainer::State::restore(const RunOptions& options) {
  std::optional<Progress> found;
  if (options.resume == ResumeMode::path) found = load_checkpoint(options.checkpoint, experiment);
  if (options.resume == ResumeMode::newest) found = resume_newest(folder.checkpoints(), experiment);
  if (options.resume == ResumeMode::none && !list_checkpoints(folder.checkpoints()).empty())
    throw_error(ExitCode::cannot_create, "{}: holds checkpoints already; resume it, or choose another --out", folder.path());
  if (found) {
    progress = *found;
    loader.restore(progress.position);
    logging::info("train", "continuing after step {} of {}", progress.step, training().steps);
  } else {
    save_parameters(folder.file("initial.safetensors"), experiment.store);
  }
  experiment.state.step = static_cast<std::uint32_t>(progress.step);
  first_step = progress.step;
  seconds_before = progress.elapsed_seconds;
  folder.open_metrics(progress.step);
}

StepTotals Trainer::State::accumulate() {
  StepTotals totals;
  std::memset(experiment.store.gradients().address(), 0,
              static_cast<std::size_t>(experiment.store.count()) * size_of(experiment.store.dtype()));
  for (std::int64_t part = 0; part < training().accumulate; ++part) {
    const data::Batch batch = loader.next();
    const DeviceBatch x = to_device(batch);
    const Tensor logits = experiment.model(x.tokens, x.layout, true);
    const Tensor loss = cross_entropy(logits, x.labels);
    backward(loss);
    totals.loss += loss.item();
    totals.correct += static_cast<double>(count_correct(logits, x.labels));
    totals.examples += static_cast<double>(batch.records);
    totals.tokens += static_cast<double>(batch.tokens.size());
    totals.samples.insert(totals.samples.end(), batch.sample.begin(), batch.sample.end());
  }
  return totals;
}

void Trainer::State::update(const StepTotals& totals) {
  StepState& state = experiment.state;
  const ScheduleValue scheduled = experiment.schedule->at(progress.step, training().steps);
  state.learning_rate = experiment.config.optimizer.learning_rate * scheduled.rate;
  state.beta1 = scheduled.beta1.value_or(experiment.config.optimizer.beta1);
  experiment.optimizer.step(state, totals.loss, static_cast<std::int64_t>(totals.examples));
  ++progress.step;
  progress.position = loader.position();
  state.step = static_cast<std::uint32_t>(progress.step);
  if (state.is_finite) {
    progress.skipped_in_a_row = 0;
    return;
  }
  ++progress.skipped;
  ++progress.skipped_in_a_row;
  dump_anomaly(totals);
}

void Trainer::State::dump_anomaly(const StepTotals& totals) {
  io::Json largest = io::Json::object();
  for (const Parameter& parameter : experiment.store.parameters()) {
    double top = 0;
    for (const double g : gradient_of(parameter.value).to_vector<double>()) top = std::isnan(g) ? g : std::max(top, std::abs(g));
    largest[parameter.path] = std::isfinite(top) ? io::Json(top) : io::Json("not finite");
  }
  const std::string name = "anomaly-" + std::to_string(progress.step) + ".json";
  folder.write_json(name, {{"step", progress.step},
                           {"loss", std::isfinite(totals.loss) ? io::Json(totals.loss) : io::Json("not finite")},
                           {"samples", totals.samples},
                           {"largest_gradient", largest}});
  logging::warning("train", "step {}: loss or gradient is not finite; update skipped ({} in a row), batch named in {}",
               progress.step, progress.skipped_in_a_row, name);
  if (progress.skipped_in_a_row >= training().max_skipped)
    throw_error(ExitCode::diverged,
                "step {}: loss or gradient was not finite {} times in a row; last good checkpoint: {}; lower "
                "optimizer.learning_rate or set optimizer.clip_norm",
                progress.step, progress.skipped_in_a_row,
                [&] {
                  const auto found = list_checkpoints(folder.checkpoints());
                  return found.empty() ? std::string("none yet") : found.back().path.string();
                }());
}

void Trainer::State::report(const StepTotals& totals) {
  const double seconds = seconds_since(started), steps = static_cast<double>(progress.step - first_step);
  const double loss = totals.loss / totals.examples, accuracy = totals.correct / totals.examples;
  line.show({progress.step, training().steps, loss, accuracy, totals.tokens * steps / seconds, steps / seconds,
             memory_statistics().peak_bytes});
  if (progress.step % training().log_every != 0 && progress.step != training().steps) return;
  const StepState& state = experiment.state;
  io::Json row{{"kind", "train"},
               {"step", progress.step},
               {"loss", loss},
               {"accuracy", accuracy},
               {"learning_rate", state.learning_rate},
               {"beta1", state.beta1},
               {"gradient_norm", state.gradient_norm},
               {"skipped", progress.skipped},
               {"tokens", totals.tokens},
               {"seconds", seconds_before + seconds}};
  if (training().log_samples) row["samples"] = totals.samples;
  folder.write_row(row);
}

void Trainer::State::evaluate_dev() {
  const Score score = evaluate(experiment, experiment.task.dev, training().evaluate_batches).all;
  progress.evaluation_is_due = stop_requested();
  if (progress.evaluation_is_due) return;
  const bool is_better = progress.best_step == 0 || score.accuracy > progress.best_accuracy ||
                         (score.accuracy == progress.best_accuracy && score.loss < progress.best_loss);
  line.finish();
  logging::info("dev", "step {}: accuracy {}, loss {}{}", progress.step, score.accuracy, score.loss, is_better ? ", best" : "");
  folder.write_row({{"kind", "dev"}, {"step", progress.step}, {"loss", score.loss}, {"accuracy", score.accuracy},
                    {"examples", score.examples}, {"seconds", seconds_before + seconds_since(started)}});
  if (!is_better) return;
  progress.best_step = progress.step;
  progress.best_accuracy = score.accuracy;
  progress.best_loss = score.loss;
}

void Trainer::State::save() {
  progress.elapsed_seconds = seconds_before + seconds_since(started);
  try {
    save_checkpoint(folder.checkpoints(), experiment, progress);
    rotate_checkpoints(folder.checkpoints(), training().keep_checkpoints, progress.best_step);
    failed_saves = 0;
  } catch (const Error& error) {
    if (++failed_saves >= failed_saves_allowed) throw;
    logging::warning("checkpoint", "step {} could not be saved, training goes on: {}", progress.step, error.what());
  }
}

void Trainer::State::stop_if_requested() {
  if (!stop_requested()) return;
  line.finish();
  failed_saves = failed_saves_allowed;  // nothing comes after this save: its failure is the run's
  save();
  throw_error(ExitCode::interrupted, "stopped by a signal after step {}; saved, run the same command again to continue",
              progress.step);
}

RunResult Trainer::State::finish() {
  line.finish();
  RunResult result{progress, {}, fingerprint(experiment, progress)};
  load_parameters(checkpoint_path(folder.checkpoints(), progress.best_step), experiment.store);
  experiment.state.step = static_cast<std::uint32_t>(progress.best_step);
  result.test = evaluate(experiment, experiment.task.test);
  stop_if_requested();
  folder.write_json("result.json",
                    {{"task", experiment.config.task.kind()},
                     {"attention", experiment.config.model.attention.kind()},
                     {"seed", experiment.config.run.seed},
                     {"steps", progress.step},
                     {"skipped", progress.skipped},
                     {"parameters", experiment.store.count()},
                     {"best_step", progress.best_step},
                     {"dev_accuracy", progress.best_accuracy},
                     {"test", score_json(result.test.all)},
                     {"test_drop_last", score_json(result.test.drop_last)},
                     {"test_majority_accuracy", majority_share(*test)},
                     {"seconds", seconds_before + seconds_since(started)},
                     {"peak_tensor_bytes", memory_statistics().peak_bytes},
                     {"fingerprint", result.fingerprint},
                     {"environment", environment_json()}});
  return result;
}

Trainer::Trainer(Experiment& experiment, Communicator& communicator, const RunOptions& options)
    : state_(std::make_unique<State>(experiment, communicator, options)) {
  state_->require_space();
  state_->restore(options);
}
Trainer::~Trainer() { logging::close_file(); }

void Trainer::step() {
  with_context([&] { return format_text("step {}", state_->progress.step + 1); }, [&] {
    StepTotals totals = state_->accumulate();
    state_->communicator.sum(state_->experiment.store.gradients());
    state_->communicator.sum(std::span(&totals.loss, 1));
    state_->communicator.sum(std::span(&totals.correct, 1));
    state_->communicator.sum(std::span(&totals.examples, 1));
    state_->update(totals);
    state_->report(totals);
  });
}

RunResult Trainer::run() {
  State& state = *state_;
  const TrainingConfig& training = state.training();
  if (state.progress.evaluation_is_due) {
    state.evaluate_dev();
    state.save();
  }
  while (state.progress.step < training.steps) {
    step();
    const std::int64_t done = state.progress.step;
    const bool is_last = done == training.steps;
    if (done % training.evaluate_every == 0 || is_last) state.evaluate_dev();
    const bool is_best = state.progress.best_step == done;
    if ((is_best || done % training.checkpoint_every == 0 || is_last) && !state.progress.evaluation_is_due) state.save();
    state.stop_if_requested();
  }
  return state.finish();
}

}  // namespace tern
