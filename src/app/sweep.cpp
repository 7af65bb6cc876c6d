// tern sweep FILE
#include <algorithm>
#include <cstdlib>

#include "app/commands.h"
#include "app/output.h"
#include "app/sweep_plan.h"
#include "app/sweep_runner.h"
#include "io/atomic_file.h"
#include "io/folder_lock.h"
#include "report/page.h"
#include "report/tables.h"
#include "tern/trainer.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

struct SweepCommand {
  SweepOptions sweep;
  std::int64_t jobs = 1;
  bool is_dry = false;
};

/// GPUs that the runs may be spread over: none if all of them name the CPU.
int gpus_for(const std::vector<PlannedRun>& runs) {
  const bool is_cpu = std::all_of(
      runs.begin(), runs.end(), [](const PlannedRun& run) { return run.config.run.device == RunDevice::cpu; });
  return is_cpu ? 0 : cuda_devices();
}

void print_plan(const std::vector<PlannedRun>& runs, const std::vector<SweepSlot>& slots) {
  std::vector<Row> rows{{"run", "task", "attention", "seed", "steps", "state"}};
  for (const PlannedRun& run : runs)
    if (run.is_chosen)
      rows.push_back({run.name, run.config.task.kind(), run.config.model.attention.kind(),
                      std::to_string(run.seed), thousands_text(run.config.training.steps),
                      std::string(name_of(run.state))});
  print(table_text(rows));
  const std::size_t chosen = rows.size() - 1, others = runs.size() - chosen;
  print(format_text("{} runs, {} at a time, first on {}{}\n", chosen, slots.size(), slots.front().device,
                    others == 0 ? "" : format_text("; {} more are not chosen", others)));
}

void report_on(const fs::path& folder) {
  const report::Findings found = report::find_runs({folder});
  if (found.runs.empty()) return;
  const report::Report report = report::gather(found);
  report::write_report(report, folder);
  if (!report.cells.empty()) print("\n" + report::markdown(report::score_table(report)));
  print(format_text("\nreport.md, report.csv, runs.csv, report.tex and report.html: in {}\n", folder));
}

void sweep(SweepCommand command) {
  if (command.sweep.out.empty()) command.sweep.out = fs::path("runs") / command.sweep.file.stem();
  const fs::path folder = command.sweep.out = fs::absolute(command.sweep.out).lexically_normal();
  std::vector<PlannedRun> runs = plan_sweep(command.sweep);
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::vector<SweepSlot> slots = sweep_slots(
      gpus_for(runs), visible == nullptr ? std::nullopt : std::optional<std::string>(visible), command.jobs);
  if (command.is_dry) return print_plan(runs, slots);
  io::make_directory(folder);
  const io::FolderLock lock(folder);
  install_signal_handlers();
  SweepRunner runner(folder, std::move(runs), slots);
  runner.run();
  print(table_text(runner.rows()));
  report_on(folder);
  if (stop_requested() || runner.count(RunState::interrupted) > 0)
    throw_error(ExitCode::interrupted, "sweep: stopped; run the command again to continue");
  if (const std::int64_t failed = runner.count(RunState::failed); failed > 0)
    throw_error(ExitCode::failed,
                "sweep: {} run(s) failed: {}; the reasons are in {}; run the command again to repeat them",
                failed, runner.names(RunState::failed), folder / "sweep.json");
}

}  // namespace

void add_sweep_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("sweep", "train every task with every mechanism and seed; run again to continue");
  auto options = std::make_shared<SweepCommand>();
  command->footer(
      "Examples: tern sweep configs/sweeps/lra.yaml --dry-run\n"
      "          tern sweep configs/sweeps/lra.yaml --jobs 3 --only '*-yoso-*'");
  command->add_option("file", options->sweep.file, "sweep file (YAML): tasks, mechanisms, seeds, set, exclude")
      ->required();
  command->add_option("--out", options->sweep.out, "folder of the runs (default: runs/<sweep file>)");
  command->add_option("--jobs", options->jobs, "runs at a time on each GPU, or on the CPU where none is used")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{256}))
      ->capture_default_str();
  command
      ->add_option("--set", options->sweep.overrides,
                   "override one key in every run: training.steps=100 (repeatable)")
      ->allow_extra_args(false);
  command
      ->add_option("--only", options->sweep.only,
                   "train only the runs whose name fits the pattern: 'listops-*' (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--dry-run", options->is_dry, "list the runs and their states, and train none");
  command->callback([options] { sweep(*options); });
}

}  // namespace tern::app
