// tern evaluate RUN_OR_CHECKPOINT
#include <cmath>

#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/output.h"
#include "app/run_config.h"
#include "data/record_file.h"
#include "tasks/prepared_data.h"
#include "tasks/task_file.h"
#include "training/evaluator.h"
#include "training/run_files.h"
#include "training/run_report.h"
#include "training/splits.h"

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
std::shared_ptr<const data::RecordFile> records_of(const EvaluateOptions& options, const Task& task) {
  const fs::path path = !options.records.empty() ? options.records
                        : options.split == "dev" ? task.dev
                                                 : task.test;
  if (!fs::exists(path))
    throw_error(ExitCode::missing_input, "{}: the prepared data are missing; make them with: {}", path,
                task.prepare_command);
  return open_records(path, task);
}

io::Json result_json(const ChosenCheckpoint& chosen, const data::RecordFile& records,
                     const std::vector<TestScore>& scores, const Objective& objective) {
  io::Json draws = io::Json::array();
  for (const TestScore& score : scores)
    draws.push_back(
        {{"all", score_json(score.all, objective)}, {"drop_last", score_json(score.drop_last, objective)}});
  io::Json json{{"checkpoint", chosen.path.string()},
                {"step", chosen.step},
                {"records", records.path().string()},
                {"draws", draws}};
  const bool has_accuracy = objective.has_accuracy();
  const Spread spread = spread_of(scores, [has_accuracy](const TestScore& score) {
    return has_accuracy ? score.all.accuracy : score.all.loss;
  });
  const std::string name = has_accuracy ? "accuracy" : "loss";
  const std::string note = tasks::data_note(records.header());
  if (!note.empty()) json["data_note"] = note;
  json[name + "_mean"] = spread.mean;
  json[name + "_deviation"] = spread.deviation;
  return json;
}

/// "12.34 %", with the deviation where there are several draws.
std::string spread_text(const std::vector<TestScore>& scores,
                        const std::function<double(const TestScore&)>& value,
                        const std::function<std::string(double)>& text) {
  const Spread spread = spread_of(scores, value);
  return text(spread.mean) + (scores.size() > 1 ? " +- " + text(spread.deviation) : "");
}

void print_result(const ChosenCheckpoint& chosen, const data::RecordFile& records,
                  const std::vector<TestScore>& scores, const Experiment& experiment) {
  const auto number_text = [](double number) { return fixed_text(number, 4); };
  const auto text_of = [&](double Score::*member, const std::function<std::string(double)>& text) {
    return spread_text(
        scores, [member](const TestScore& score) { return score.all.*member; }, text);
  };
  std::vector<Row> rows{
      {"checkpoint", chosen.path.string()},
      {"records", records.path().string()},
      {experiment.task.interface.predicts_tokens ? "tokens" : "examples",
       thousands_text(scores.front().all.examples)},
      {"draws", std::to_string(scores.size())},
  };
  const std::string note = tasks::data_note(records.header());
  if (!note.empty()) rows.push_back({"the data are", note});
  const bool has_accuracy = experiment.objective->has_accuracy();
  if (has_accuracy) rows.push_back({"accuracy", text_of(&Score::accuracy, percent_text)});
  rows.push_back({"loss", text_of(&Score::loss, number_text)});
  if (has_accuracy && scores.front().drop_last.examples > 0) {
    const auto accuracy = [](const TestScore& score) { return score.drop_last.accuracy; };
    rows.push_back({"accuracy, drop last", spread_text(scores, accuracy, percent_text)});
  }
  if (!has_accuracy) {
    rows.push_back({"pearson", text_of(&Score::pearson, number_text)});
    rows.push_back({"spearman", text_of(&Score::spearman, number_text)});
  }
  print(table_text(rows));
}

void evaluate_run(const EvaluateOptions& options) {
  const ChosenCheckpoint chosen = choose_checkpoint(options.source);
  const fs::path run = run_folder_of(options.source);
  ExperimentConfig config = load_run_config(run, options.overrides, {"task", "objective"});
  if (options.seed) config.run.seed = *options.seed;
  set_threads(static_cast<int>(config.run.threads));
  Experiment experiment(config);
  load_parameters(chosen.parameters(), experiment.store);
  Task task = experiment.task;
  if (fs::exists(run / tasks::task_file_name))
    task.class_names = tasks::read_task(run).class_names;  // what it learned, whatever the data hold by now
  const auto records = records_of(options, task);
  GraphCache graphs(experiment.device(), experiment.config.run.graphs);
  Evaluator evaluator(experiment, graphs);
  std::vector<TestScore> scores;
  for (std::int64_t draw = 0; draw < options.hash_draws; ++draw) {
    experiment.state.set_step(
        static_cast<std::uint32_t>(chosen.step + draw));  // sampled attention draws from it
    scores.push_back(evaluator.score(records));
  }
  if (options.as_json) return print_json(result_json(chosen, *records, scores, *experiment.objective));
  print_result(chosen, *records, scores, experiment);
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
