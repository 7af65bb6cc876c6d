// The configuration of a trained run, as the commands read it that score its model.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tern/experiment.h"

namespace tern::app {

/// The configuration in the run folder with `overrides`. These may change what decides a score and where it is
/// computed: run, model, training.batch_size, training.accumulate and the keys or sections of `others`.
/// Error(bad_config) for one that changes something else, since nobody would read it.
ExperimentConfig load_run_config(const std::filesystem::path& run, const std::vector<std::string>& overrides,
                                 const std::vector<std::string>& others);

}  // namespace tern::app
