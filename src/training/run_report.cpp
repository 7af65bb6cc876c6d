#include "training/run_report.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <ctime>

#include "data/record_file.h"
#include "tern/logging.h"

namespace tern {
namespace {

io::Json finite_or_text(double value) {
  return std::isfinite(value) ? io::Json(value) : io::Json("not finite");
}

io::Json optional_json(bool is_there, double value) { return is_there ? io::Json(value) : io::Json(nullptr); }

io::Json config_json(const ExperimentConfig& config) {
  io::Json values = io::Json::object();
  for (const auto& [key, value] : config::values(config)) values[key] = value;
  return values;
}

/// What was learned from: a score means nothing without it.
io::Json data_json(const Task& task) {
  io::Json splits = io::Json::object();
  for (const auto& [split, path] :
       {std::pair("train", task.train), std::pair("dev", task.dev), std::pair("test", task.test)}) {
    const data::RecordFile file(path);
    splits[split] = {{"task", file.header().task},
                     {"records", file.count()},
                     {"seed", file.header().seed},
                     {"options", io::parse_json(file.header().options, path.string())},
                     {"content_xxh3_128", io::to_hex(file.content_hash())}};
  }
  return splits;
}

std::string utc_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

}  // namespace

io::Json score_json(const Score& score, const Objective& objective) {
  io::Json json{{"examples", score.examples}, {"loss", score.loss}};
  if (objective.has_accuracy())
    json["accuracy"] = score.accuracy;
  else
    json.update({{"pearson", score.pearson}, {"spearman", score.spearman}});
  return json;
}

std::string score_text(const Score& score, const Objective& objective) {
  std::array<char, 160> text{};
  if (objective.has_accuracy())
    std::snprintf(text.data(), text.size(), "accuracy %.4f, loss %.4f", score.accuracy, score.loss);
  else
    std::snprintf(text.data(), text.size(), "loss %.4f, pearson %.4f, spearman %.4f", score.loss, score.pearson,
                  score.spearman);
  return text.data();
}

std::string write_anomaly(RunFolder& folder, std::int64_t step, const StepOutcome& outcome,
                          const ParameterStore& store) {
  io::Json norms = io::Json::object();
  for (std::size_t i = 0; i < store.parameters().size(); ++i)
    norms[store.parameters()[i].path] = finite_or_text(outcome.gradient_norms[i]);
  const std::string name = "anomaly-" + std::to_string(step) + ".json";
  try {
    folder.write_json(name, {{"step", step},
                             {"loss", finite_or_text(outcome.state.score.loss)},
                             {"samples", outcome.samples},
                             {"gradient_norm", norms}});
  } catch (const Error& error) {
    logging::warning("train", "{} could not be written: {}", name, error.what());
  }
  return name;
}

io::Json result_json(const Experiment& experiment, const RunResult& result, double seconds,
                     std::int64_t device_bytes) {
  const Objective& objective = *experiment.objective;
  io::Json memory = memory_json();
  memory["device_peak_bytes"] = device_bytes;
  return {{"task", experiment.config.task.kind()},
          {"objective", experiment.config.objective.kind()},
          {"attention", experiment.config.model.attention.kind()},
          {"seed", experiment.config.run.seed},
          {"steps", result.progress.step},
          {"skipped", result.progress.skipped},
          {"parameters", experiment.store.count()},
          {"best_step", result.progress.best_step},
          {"selected_by", objective.selection() == Selection::accuracy ? "accuracy" : "loss"},
          {"dev_accuracy", optional_json(objective.has_accuracy(), result.progress.best_accuracy)},
          {"dev_loss", result.progress.best_loss},
          {"test", score_json(result.test.all, objective)},
          {"test_drop_last", score_json(result.test.drop_last, objective)},
          {"test_majority_accuracy",
           optional_json(result.test_majority.has_value(), result.test_majority.value_or(0))},
          {"seconds", seconds},
          {"dev_seconds", result.progress.evaluation_seconds},
          {"test_seconds", result.test_seconds},
          {"memory", memory},
          {"fingerprint", result.fingerprint},
          {"environment", environment_json()},
          {"config", config_json(experiment.config)},
          {"data", data_json(experiment.task)},
          {"finished", utc_text()}};
}

}  // namespace tern
