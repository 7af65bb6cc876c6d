#include "training/run_files.h"

#include "io/atomic_file.h"
#include "io/json.h"

namespace tern {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t json_cap = 1 << 20;

std::int64_t integer_in(const fs::path& file, const char* key) {
  return io::json_integer(io::parse_json(io::read_file(file, json_cap), file.string()), key, file.string());
}

void require_sound(const fs::path& checkpoint) {
  const CheckpointStatus status = verify_checkpoint(checkpoint);
  if (!status.fault.empty()) throw Error(ExitCode::bad_data, status.fault);
}

}  // namespace

fs::path run_folder_of(const fs::path& path) {
  if (!fs::exists(path)) throw_error(ExitCode::missing_input, "{}: there is no such run or checkpoint", path);
  for (fs::path folder = fs::weakly_canonical(path);; folder = folder.parent_path()) {
    if (fs::exists(folder / "config.resolved.yaml")) return folder;
    if (folder == folder.parent_path()) break;
  }
  throw_error(ExitCode::missing_input,
              "{}: neither it nor a folder above it holds config.resolved.yaml; name a run folder or a "
              "checkpoint in one",
              path);
}

fs::path ChosenCheckpoint::parameters() const {
  return fs::is_directory(path) ? path / "model.safetensors" : path;
}

fs::path run_of_checkpoint(const fs::path& checkpoint) {
  return fs::weakly_canonical(checkpoint).parent_path().parent_path();
}

std::int64_t best_step_of(const fs::path& run) {
  if (fs::exists(run / "result.json")) return integer_in(run / "result.json", "best_step");
  const std::vector<CheckpointStatus> found = list_checkpoints(run / "checkpoints");
  for (auto status = found.rbegin(); status != found.rend(); ++status)
    if (status->fault.empty()) return integer_in(status->path / "state.json", "best_step");
  return 0;
}

ChosenCheckpoint choose_checkpoint(const fs::path& path) {
  const fs::path folder = fs::absolute(path).parent_path();
  const bool is_of_checkpoint = path.filename() == "model.safetensors" && fs::exists(folder / "MANIFEST.json");
  if (fs::is_regular_file(path))
    return is_of_checkpoint ? choose_checkpoint(folder) : ChosenCheckpoint{path, 0};
  if (fs::exists(path / "MANIFEST.json")) {
    require_sound(path);
    return {path, integer_in(path / "state.json", "step")};
  }
  const fs::path run = run_folder_of(path);
  if (const std::int64_t best = best_step_of(run); best > 0) {
    const fs::path checkpoint = checkpoint_path(run / "checkpoints", best);
    require_sound(checkpoint);
    return {checkpoint, best};
  }
  const std::vector<CheckpointStatus> found = list_checkpoints(run / "checkpoints");
  for (auto status = found.rbegin(); status != found.rend(); ++status)
    if (status->fault.empty()) return {status->path, status->step};
  throw_error(ExitCode::missing_input, "{}: holds no complete checkpoint; train longer", run);
}

}  // namespace tern
