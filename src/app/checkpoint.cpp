// tern checkpoint list|verify|average
#include "app/commands.h"
#include "app/output.h"
#include "tern/logging.h"
#include "training/run_files.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

/// The checkpoints that `path` stands for: itself, those in it, or those of the run folder.
std::vector<CheckpointStatus> checkpoints_at(const fs::path& path) {
  if (!fs::is_directory(path))
    throw_error(ExitCode::missing_input, "{}: must be a run folder or a checkpoint folder", path);
  if (fs::is_directory(path / "checkpoints")) return list_checkpoints(path / "checkpoints");
  std::vector<CheckpointStatus> inside = list_checkpoints(path);
  return inside.empty() ? std::vector{verify_checkpoint(path)} : inside;
}

double bytes_in(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return static_cast<double>(bytes);
}

std::string state_of(const CheckpointStatus& status, std::int64_t best) {
  if (!status.fault.empty()) return "damaged";
  return status.step == best ? "ok, best" : "ok";
}

void list(const fs::path& path, bool as_json) {
  const std::int64_t best = best_step_of(run_folder_of(path));
  io::Json all = io::Json::array();
  std::vector<Row> rows{{"step", "size", "state", "path"}};
  std::string faults;
  for (const CheckpointStatus& status : checkpoints_at(path)) {
    rows.push_back({std::to_string(status.step), bytes_text(bytes_in(status.path)), state_of(status, best),
                    status.path.string()});
    all.push_back({{"path", status.path.string()},
                   {"step", status.step},
                   {"bytes", bytes_in(status.path)},
                   {"is_best", status.step == best},
                   {"fault", status.fault}});
    if (!status.fault.empty()) faults += status.fault + "\n";
  }
  if (as_json) return print_json(all);
  print(rows.size() > 1 ? table_text(rows) + faults : "no checkpoints yet\n");
}

void verify(const std::vector<std::string>& paths) {
  std::size_t damaged = 0, count = 0;
  for (const std::string& path : paths)
    for (const CheckpointStatus& status : checkpoints_at(path)) {
      const bool is_sound = status.fault.empty();
      print(format_text("{}{}\n", is_sound ? "ok       " : "damaged  ", status.path));
      if (!is_sound) logging::write(logging::Level::error, "checkpoint", status.fault);
      damaged += is_sound ? 0 : 1;
      ++count;
    }
  if (count == 0) throw_error(ExitCode::missing_input, "{}: holds no checkpoint", paths.front());
  if (damaged > 0) throw_error(ExitCode::bad_data, "{} of {} checkpoints are damaged", damaged, count);
}

void average(const fs::path& out, const std::vector<std::string>& sources, bool force) {
  if (fs::exists(out) && !force)
    throw_error(ExitCode::cannot_create, "{}: is there already; choose another name, or --force to replace it",
                out);
  std::vector<fs::path> files;
  for (const std::string& source : sources) {
    if (!fs::exists(source)) throw_error(ExitCode::missing_input, "{}: there is no such checkpoint", source);
    files.push_back(choose_checkpoint(source).path);
  }
  average_checkpoints(files, out);
  print(format_text("{}: mean of {} checkpoints\n", out, files.size()));
}

}  // namespace

void add_checkpoint_command(CLI::App& app) {
  CLI::App* checkpoint = app.add_subcommand("checkpoint", "list, check and average checkpoints");
  checkpoint->footer(
      "Examples: tern checkpoint list runs/listops\n          tern checkpoint verify runs/listops");
  checkpoint->require_subcommand(1);

  auto run = std::make_shared<fs::path>();
  auto as_json = std::make_shared<bool>(false);
  CLI::App* list_command = checkpoint->add_subcommand("list", "checkpoints of a run, by step, each checked");
  list_command->footer("Example: tern checkpoint list runs/listops --json");
  list_command->add_option("run", *run, "run folder")->required();
  list_command->add_flag("--json", *as_json, "print JSON");
  list_command->callback([=] { list(*run, *as_json); });

  auto paths = std::make_shared<std::vector<std::string>>();
  CLI::App* verify_command = checkpoint->add_subcommand("verify", "hash every file; exit 65 if one is damaged");
  verify_command->footer("Example: tern checkpoint verify runs/listops/checkpoints/step-00005000");
  verify_command->add_option("paths", *paths, "checkpoints, or run folders")->required();
  verify_command->callback([=] { verify(*paths); });

  auto out = std::make_shared<fs::path>();
  auto sources = std::make_shared<std::vector<std::string>>();
  auto force = std::make_shared<bool>(false);
  CLI::App* average_command =
      checkpoint->add_subcommand("average", "mean of the parameters of several checkpoints");
  average_command->footer(
      "Example: tern checkpoint average runs/listops/average.safetensors runs/listops/checkpoints/step-*");
  average_command
      ->add_option("out", *out,
                   "safetensors file to write; inside the run folder, evaluate finds its "
                   "configuration")
      ->required();
  average_command
      ->add_option("sources", *sources, "checkpoints, safetensors files, or run folders (best checkpoint)")
      ->required();
  average_command->add_flag("--force", *force, "replace the file if it is there");
  average_command->callback([=] { average(*out, *sources, *force); });
}

}  // namespace tern::app
