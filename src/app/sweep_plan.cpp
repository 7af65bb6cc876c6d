#include "app/sweep_plan.h"

#include <algorithm>
#include <set>

#include <fnmatch.h>

#include "config/scalar.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

std::string quoted(const fs::path& path) { return config::yaml_text(Scalar(path.string())); }

/// "{name}" and the like in an override stand for the run's own.
std::string filled(std::string text, const PlannedRun& run) {
  for (const auto& [word, value] : {std::pair<std::string, std::string>{"{name}", run.name},
                                    {"{task}", run.task},
                                    {"{mechanism}", run.mechanism},
                                    {"{seed}", std::to_string(run.seed)}})
    for (std::size_t at = 0; (at = text.find(word, at)) != text.npos; at += value.size())
      text.replace(at, word.size(), value);
  return text;
}

/// Mistakes of the runs' files: one that several runs share is told once.
class Mistakes {
 public:
  void add(const Error& error, const std::string& run) {
    const auto known = std::ranges::find(list_, error.what(), &Mistake::text);
    if (known != list_.end()) return void(++known->runs);
    list_.push_back({error.what(), error.code(), run, 1});
  }
  void throw_if_any(const fs::path& file) const {
    if (list_.empty()) return;
    std::string text;
    for (const Mistake& mistake : list_)
      text += (text.empty() ? "" : "\n") + mistake.text + "\n  in run " + mistake.run +
              (mistake.runs == 1 ? "" : format_text(" and {} more", mistake.runs - 1)) + " of " + file.string();
    throw Error(list_.front().code, text);
  }

 private:
  struct Mistake {
    std::string text;
    ExitCode code;
    std::string run;  ///< the first that has it
    int runs;
  };
  std::vector<Mistake> list_;
};

struct Combination {
  fs::path task, mechanism;
  std::uint64_t seed;
};

PlannedRun planned_run(const SweepOptions& options, const SweepConfig& sweep, const Combination& one,
                       Mistakes& mistakes) {
  PlannedRun run;
  run.task = one.task.stem().string();
  run.mechanism = one.mechanism.stem().string();
  run.seed = one.seed;
  const std::string seed = std::to_string(one.seed);
  run.name = run.task + (run.mechanism.empty() ? "" : "-" + run.mechanism) + "-seed" + seed;
  run.folder = options.out / run.name;
  std::vector<std::string> overrides = sweep.set;
  overrides.insert(overrides.end(), options.overrides.begin(), options.overrides.end());
  for (std::string& text : overrides) text = filled(text, run);
  overrides.push_back("run.seed=" + seed);
  const std::string bases = quoted(one.task) + (one.mechanism.empty() ? "" : ", " + quoted(one.mechanism));
  try {
    config::load_text(run.config, "base: [" + bases + "]", options.file, overrides);
  } catch (const Error& error) {
    mistakes.add(error, run.name);
  }
  return run;
}

bool fits_one(const std::string& name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

/// A pattern that fits nothing is a slip.
void require_fits(const std::vector<std::string>& patterns, const std::vector<PlannedRun>& runs,
                  const std::string& where) {
  for (const std::string& pattern : patterns)
    if (std::none_of(runs.begin(), runs.end(),
                     [&](const PlannedRun& run) { return fits_one(run.name, {pattern}); }))
      throw_error(ExitCode::bad_config, "{}: \"{}\" fits no run; the first is called {}", where, pattern,
                  runs.front().name);
}

void require_different_names(const std::vector<PlannedRun>& runs, const fs::path& file) {
  std::set<std::string> names;
  for (const PlannedRun& run : runs)
    if (!names.insert(run.name).second)
      throw_error(ExitCode::bad_config,
                  "{}: two runs would be called {}; files and seeds must differ in their names", file,
                  run.name);
}

/// What differs between a finished run and what is planned now.
std::string differences(const PlannedRun& run) {
  ExperimentConfig before, now = run.config;
  config::load(before, run.folder / "config.resolved.yaml");
  now.run = resolved(now.run);
  std::string text;
  for (const config::Difference& difference : config::diff(before, now))
    if (!difference.changeable || difference.key == "training.steps")
      text += "\n  " + run.name + ": " + difference.key + ": " + difference.before.value_or("(absent)") +
              " there, " + difference.after.value_or("(absent)") + " now";
  return text;
}

void look_for_results(std::vector<PlannedRun>& runs, const fs::path& folder) {
  std::string all;
  for (PlannedRun& run : runs) {
    if (fs::exists(run.folder / "result.json")) {
      run.state = RunState::done;
      all += differences(run);
    } else if (fs::exists(run.folder / "checkpoints") && !fs::is_empty(run.folder / "checkpoints")) {
      run.state = RunState::started;
    }
  }
  if (!all.empty())
    throw_error(ExitCode::bad_config,
                "{}: holds results of another configuration; choose another --out, or undo the changes:{}",
                folder, all);
}

}  // namespace

void SweepConfig::fields(Fields& f) {
  f("tasks", tasks, "experiment files, one for each task", not_empty());
  f("mechanisms", mechanisms,
    "files laid over each task, one for each row of the table; empty means the tasks alone");
  f("seeds", seeds, "a run for each", not_empty());
  f("set", set,
    "overrides for every run, such as training.steps=100; {name}, {task}, {mechanism} and {seed} are the run's "
    "own");
  f("exclude", exclude, "patterns of names of runs that are left out, such as listops-softmax-*");
}

bool is_sweep_file(const fs::path& file) {
  const std::vector<std::string> found = config::top_keys(file), known = config::keys(SweepConfig());
  return std::ranges::any_of(
      found, [&](const std::string& key) { return std::ranges::find(known, key) != known.end(); });
}

std::vector<PlannedRun> planned_runs(const SweepOptions& options) {
  SweepConfig sweep;
  config::load(sweep, options.file);
  const std::vector<fs::path> mechanisms =
      sweep.mechanisms.empty() ? std::vector<fs::path>{{}} : sweep.mechanisms;
  std::vector<PlannedRun> runs;
  Mistakes mistakes;
  for (const std::uint64_t seed : sweep.seeds)
    for (const fs::path& mechanism : mechanisms)
      for (const fs::path& task : sweep.tasks)
        runs.push_back(planned_run(options, sweep, {task, mechanism, seed}, mistakes));
  mistakes.throw_if_any(options.file);
  require_different_names(runs, options.file);
  require_fits(sweep.exclude, runs, options.file.string() + ": exclude");
  std::erase_if(runs, [&](const PlannedRun& run) { return fits_one(run.name, sweep.exclude); });
  if (runs.empty()) throw_error(ExitCode::bad_config, "{}: exclude leaves no run", options.file);
  require_fits(options.only, runs, "--only");
  for (PlannedRun& run : runs) run.is_chosen = options.only.empty() || fits_one(run.name, options.only);
  return runs;
}

std::vector<PlannedRun> plan_sweep(const SweepOptions& options) {
  std::vector<PlannedRun> runs = planned_runs(options);
  look_for_results(runs, options.out);
  return runs;
}

}  // namespace tern::app
