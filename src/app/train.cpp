// tern train CONFIG
#include <algorithm>
#include <cstdio>
#include <iostream>

#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/output.h"
#include "tern/logging.h"
#include "tern/trainer.h"

namespace tern::app {
namespace {

struct TrainOptions {
  ExperimentOptions experiment;
  std::string out, resume = "auto";
};

std::filesystem::path run_folder(const TrainOptions& options, const ExperimentConfig& config) {
  if (!options.out.empty()) return options.out;
  const std::string automatic = options.experiment.file.stem().string() + "-" + config.model.attention.kind() +
                                "-seed" + std::to_string(config.run.seed);
  return config.run.out / (config.run.name.empty() ? automatic : config.run.name);
}

std::string device_text(Device device) {
  return device.type == DeviceType::cuda ? cuda_description() : format_text("the CPU, {} threads", threads());
}

void print_percent(const char* label, double share) { std::printf("%-28s %6.2f %%\n", label, 100 * share); }
void print_number(const char* label, double number) { std::printf("%-28s %8.4f\n", label, number); }

void print_scores(const RunResult& result, const Objective& objective) {
  const Score& test = result.test.all;
  if (objective.has_accuracy()) {
    print_percent("dev accuracy (best)", result.progress.best_accuracy);
    print_percent("test accuracy", test.accuracy);
    if (result.test_majority) print_percent("test majority class", *result.test_majority);
    if (result.test.drop_last.examples > 0)
      print_percent("test accuracy, drop last", result.test.drop_last.accuracy);
  }
  if (objective.selection() == Selection::accuracy) return;
  print_number("dev loss (best)", result.progress.best_loss);
  print_number("test loss", test.loss);
  if (objective.has_accuracy()) return;
  print_number("test pearson", test.pearson);
  print_number("test spearman", test.spearman);
}

void print_result(const RunResult& result, const Experiment& experiment, const std::filesystem::path& folder) {
  const ExperimentConfig& config = experiment.config;
  std::printf("%-28s %s on %s, %lld steps\n", "trained", config.model.attention.kind().c_str(),
              config.task.kind().c_str(), static_cast<long long>(result.progress.step));
  print_scores(result, *experiment.objective);
  std::printf("%-28s %s\n", "fingerprint", result.fingerprint.c_str());
  std::printf("%-28s %s\n", "run folder", folder.c_str());
}

/// A warm-up longer than the run is allowed, and rarely meant.
void tell_low_peak(const Experiment& experiment) {
  double peak = 0;
  const std::int64_t steps = experiment.config.training.steps;
  for (std::int64_t step = 0; step < steps; ++step)
    peak = std::max(peak, experiment.schedule->at(step, steps).rate);
  if (peak < 0.99)
    logging::warning("train",
                     "the schedule reaches {} of optimizer.learning_rate in {} steps; shorten its warm-up "
                     "if that is not meant",
                     fixed_text(peak, 2), steps);
}

void train(const TrainOptions& options) {
  const ExperimentConfig config = load_experiment(options.experiment);
  set_threads(static_cast<int>(config.run.threads));
  install_signal_handlers();
  RunOptions run;
  run.folder = run_folder(options, config);
  if (options.resume == "none")
    run.resume = ResumeMode::none;
  else if (options.resume != "auto")
    run.resume = ResumeMode::path, run.checkpoint = options.resume;
  Experiment experiment(config);
  logging::info("train", "{} parameters, attention {}, {} on {}, run folder {}", experiment.store.count(),
                config.model.attention.kind(), name_of(experiment.config.run.precision),
                device_text(experiment.device()), run.folder);
  tell_low_peak(experiment);
  const std::unique_ptr<Communicator> communicator = solo_communicator();
  Trainer trainer(experiment, *communicator, run);
  print_result(trainer.run(), experiment, run.folder);
}

}  // namespace

void add_train_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "train a model; run again to continue a stopped run");
  auto options = std::make_shared<TrainOptions>();
  add_experiment_options(*command, options->experiment);
  command->add_option("--out", options->out, "run folder (default: run.out/<config>-<attention>-seed<seed>)");
  command
      ->add_option("--resume", options->resume,
                   "auto (newest complete checkpoint), none, or a checkpoint folder")
      ->capture_default_str();
  command->footer(
      "Example: tern train configs/quickstart.yaml --set model.attention.kind=softmax --out runs/softmax");
  command->callback([options] { train(*options); });
}

}  // namespace tern::app
