// tern evaluate RUN_OR_CHECKPOINT
#include <cmath>

#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/output.h"
#include "app/run_files.h"
#include "data/record_file.h"
#include "tern/trainer.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

struct EvaluateOptions {
  fs::path source, records;
  std::string split = "test";
  std::optional<std::uint64_t> seed;
  std::int64_t hash_draws = 1;
  std::vector<std::string> overrides;
  bool as_json = false;
};

struct Spread {
  double mean = 0, deviation = 0;  ///< deviation of the sample; 0 for one draw
};

Spread spread_of(const std::vector<TestScore>& scores, const std::function<double(const TestScore&)>& value) {
  const auto count = static_cast<double>(scores.size());
  Spread spread;
  for (const TestScore& score : scores) spread.mean += value(score) / count;
  if (scores.size() < 2) return spread;
  double squares = 0;
  for (const TestScore& score : scores) squares += std::pow(value(score) - spread.mean, 2);
  spread.deviation = std::sqrt(squares / (count - 1));
  return spread;
}

/// The file to score, checked against what the model can read.
fs::path records_of(const EvaluateOptions& options, const Task& task) {
  const fs::path path = !options.records.empty() ? options.records
                        : options.split == "dev" ? task.dev
                                                 : task.test;
  if (!fs::exists(path))
    throw_error(ExitCode::missing_input, "{}: the prepared data are missing; make them with: {}", path,
                task.prepare_command);
  const data::RecordFile file(path);
  if (file.header().vocabulary > task.interface.vocabulary || file.header().classes > task.interface.outputs)
    throw_error(ExitCode::bad_data, "{}: must fit a model of {} ids and {} classes, got {} and {}", path,
                task.interface.vocabulary, task.interface.outputs, file.header().vocabulary,
                file.header().classes);
  return path;
}

io::Json score_json(const Score& score) {
  return {{"examples", score.examples}, {"loss", score.loss}, {"accuracy", score.accuracy}};
}

io::Json result_json(const ChosenCheckpoint& chosen, const fs::path& records,
                     const std::vector<TestScore>& scores) {
  io::Json draws = io::Json::array();
  for (const TestScore& score : scores)
    draws.push_back({{"all", score_json(score.all)}, {"drop_last", score_json(score.drop_last)}});
  const Spread accuracy = spread_of(scores, [](const TestScore& score) { return score.all.accuracy; });
  return {{"checkpoint", chosen.path.string()}, {"step", chosen.step},
          {"records", records.string()},        {"draws", draws},
          {"accuracy_mean", accuracy.mean},     {"accuracy_deviation", accuracy.deviation}};
}

/// "12.34 %", with the deviation where there are several draws.
std::string spread_text(const std::vector<TestScore>& scores,
                        const std::function<double(const TestScore&)>& value,
                        const std::function<std::string(double)>& text) {
  const Spread spread = spread_of(scores, value);
  return text(spread.mean) + (scores.size() > 1 ? " +- " + text(spread.deviation) : "");
}

void print_result(const ChosenCheckpoint& chosen, const fs::path& records,
                  const std::vector<TestScore>& scores) {
  const auto loss_text = [](double loss) { return fixed_text(loss, 4); };
  print(table_text(
      {{"checkpoint", chosen.path.string()},
       {"records", records.string()},
       {"examples", thousands_text(scores.front().all.examples)},
       {"draws", std::to_string(scores.size())},
       {"accuracy", spread_text(
                        scores, [](const TestScore& score) { return score.all.accuracy; }, percent_text)},
       {"loss", spread_text(
                    scores, [](const TestScore& score) { return score.all.loss; }, loss_text)},
       {"accuracy, drop last",
        spread_text(
            scores, [](const TestScore& score) { return score.drop_last.accuracy; }, percent_text)}}));
}

void evaluate_run(const EvaluateOptions& options) {
  const ChosenCheckpoint chosen = choose_checkpoint(options.source);
  ExperimentConfig config;
  config::load(config, run_folder_of(options.source) / "config.resolved.yaml", options.overrides);
  if (options.seed) config.run.seed = *options.seed;
  set_threads(static_cast<int>(config.run.threads));
  Experiment experiment(config);
  load_parameters(fs::is_directory(chosen.path) ? chosen.path / "model.safetensors" : chosen.path,
                  experiment.store);
  const fs::path records = records_of(options, experiment.task);
  std::vector<TestScore> scores;
  for (std::int64_t draw = 0; draw < options.hash_draws; ++draw) {
    experiment.state.set_step(
        static_cast<std::uint32_t>(chosen.step + draw));  // sampled attention draws from it
    scores.push_back(evaluate(experiment, records));
  }
  if (options.as_json) return print_json(result_json(chosen, records, scores));
  print_result(chosen, records, scores);
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("evaluate", "score a trained model on a split");
  auto options = std::make_shared<EvaluateOptions>();
  command->footer(
      "Examples: tern evaluate runs/listops\n"
      "          tern evaluate runs/listops/checkpoints/step-00005000 --split dev --hash-draws 10\n"
      "          tern evaluate runs/listops --set run.device=cpu --set run.precision=auto");
  command
      ->add_option("source", options->source,
                   "run folder (its best checkpoint on dev), checkpoint, or .safetensors file")
      ->required();
  command->add_option("--split", options->split, "dev or test")
      ->check(CLI::IsMember({"dev", "test"}))
      ->capture_default_str();
  command->add_option("--records", options->records, "another record file, in place of --split");
  command->add_option("--seed", options->seed, "seed of the draws of sampled attention (default: the run's)")
      ->check(check_seed);
  command
      ->add_option("--hash-draws", options->hash_draws,
                   "evaluations with fresh draws: mean and standard deviation")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10000}))
      ->capture_default_str();
  command->add_option("--set", options->overrides, "override one key: run.device=cpu (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--json", options->as_json, "print JSON");
  command->callback([options] { evaluate_run(*options); });
}

}  // namespace tern::app
