#include "training/run_report.h"

#include <cmath>

#include "tern/logging.h"

namespace tern {
namespace {

io::Json finite_or_text(double value) {
  return std::isfinite(value) ? io::Json(value) : io::Json("not finite");
}

io::Json score_json(const Score& score) {
  return {{"examples", score.examples}, {"loss", score.loss}, {"accuracy", score.accuracy}};
}

}  // namespace

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
  io::Json memory = memory_json();
  memory["device_peak_bytes"] = device_bytes;
  return {{"task", experiment.config.task.kind()},
          {"attention", experiment.config.model.attention.kind()},
          {"seed", experiment.config.run.seed},
          {"steps", result.progress.step},
          {"skipped", result.progress.skipped},
          {"parameters", experiment.store.count()},
          {"best_step", result.progress.best_step},
          {"dev_accuracy", result.progress.best_accuracy},
          {"test", score_json(result.test.all)},
          {"test_drop_last", score_json(result.test.drop_last)},
          {"test_majority_accuracy", result.test_majority},
          {"seconds", seconds},
          {"memory", memory},
          {"fingerprint", result.fingerprint},
          {"environment", environment_json()}};
}

}  // namespace tern
