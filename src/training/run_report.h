// The files that a run writes about its steps and its end.
#pragma once

#include "tern/trainer.h"
#include "training/run_folder.h"
#include "training/step_runner.h"

namespace tern {

/// Writes anomaly-<step>.json: loss, samples and the norm of each parameter's gradient. Returns its name; a
/// file that cannot be written costs a warning.
std::string write_anomaly(RunFolder& folder, std::int64_t step, const StepOutcome& outcome,
                          const ParameterStore& store);

/// Members "examples", "loss", and "accuracy" or "pearson" and "spearman"; and as words.
io::Json score_json(const Score& score, const Objective& objective);
std::string score_text(const Score& score, const Objective& objective);

/// result.json. `device_bytes` is the peak of the device's memory.
io::Json result_json(const Experiment& experiment, const RunResult& result, double seconds,
                     std::int64_t device_bytes);

}  // namespace tern
