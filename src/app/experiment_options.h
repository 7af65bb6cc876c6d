// The arguments that every command on an experiment takes: CONFIG and --set.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "app/sweep_plan.h"

namespace tern::app {

struct ExperimentOptions {
  std::filesystem::path file;
  std::vector<std::string> overrides;
};

inline void add_experiment_options(CLI::App& command, ExperimentOptions& options) {
  command.add_option("config", options.file, "experiment file (YAML)")->required();
  command
      .add_option("--set", options.overrides,
                  "override one key: model.attention.kind=yoso (repeatable; tern config keys lists them)")
      ->allow_extra_args(false);
}

/// For seeds on the command line: the parser would wrap "-1" and cut what does not fit into 64 bits.
inline std::string check_seed(const std::string& text) {
  const bool is_number = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  return is_number && text.size() <= 19 ? ""
                                        : "a seed must be a number of at most 19 digits, got \"" + text + "\"";
}

/// As config::load; Error(bad_config) for a sweep file names the commands that read it.
inline config::Origins load_experiment(ExperimentConfig& config, const ExperimentOptions& options) {
  if (is_sweep_file(options.file))
    throw_error(
        ExitCode::bad_config,
        "{}: must be an experiment, got a sweep of several; use tern sweep {}, with --dry-run to list them",
        options.file, options.file);
  return config::load(config, options.file, options.overrides);
}

inline ExperimentConfig load_experiment(const ExperimentOptions& options) {
  ExperimentConfig config;
  load_experiment(config, options);
  return config;
}

}  // namespace tern::app
