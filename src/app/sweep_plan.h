// Which runs a sweep file asks for.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tern/experiment.h"

namespace tern::app {

/// A sweep file: every task with every mechanism and every seed.
struct SweepConfig {
  std::vector<std::filesystem::path> tasks, mechanisms;
  std::vector<std::uint64_t> seeds{0};
  std::vector<std::string> set, exclude;
  void fields(Fields& f);
};

enum class RunState { fresh, started, done, running, failed, interrupted };
constexpr auto enum_names(RunState) {
  return std::array{EnumName{RunState::fresh, "new"},     EnumName{RunState::started, "started"},
                    EnumName{RunState::done, "done"},     EnumName{RunState::running, "running"},
                    EnumName{RunState::failed, "failed"}, EnumName{RunState::interrupted, "interrupted"}};
}

struct PlannedRun {
  std::string name;  ///< "<task file>-<mechanism file>-seed<seed>", and that of its folder
  std::filesystem::path folder;
  std::string task, mechanism;
  std::uint64_t seed = 0;
  ExperimentConfig config;
  RunState state = RunState::fresh;  ///< as its folder tells
  bool is_chosen = true;
};

struct SweepOptions {
  std::filesystem::path file, out;
  std::vector<std::string> overrides, only;
};

/// Whether a file has a key that only sweep files have.
bool is_sweep_file(const std::filesystem::path& file);

/// All runs, seed by seed, so that the first results are one of each kind; those that `only` (patterns of
/// names) does not fit are not chosen. Reads the files alone, not the folder of the runs. One Error for the
/// mistakes of all runs: bad_config for those in any file, for patterns that fit no run and for two runs of one
/// name, missing_input for absent files.
std::vector<PlannedRun> planned_runs(const SweepOptions& options);

/// The same with their states, as the folder tells. Error(bad_config) too for finished runs there that were
/// made with another configuration.
std::vector<PlannedRun> plan_sweep(const SweepOptions& options);

}  // namespace tern::app
