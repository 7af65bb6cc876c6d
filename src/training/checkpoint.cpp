#include "tern/checkpoint.h"

#include <algorithm>

#include "io/atomic_file.h"
#include "io/hash.h"
#include "io/json.h"
#include "tern/logging.h"
#include "training/parameter_file.h"

namespace tern {
namespace {

namespace fs = std::filesystem;

constexpr int format_version = 1;
constexpr std::int64_t small_file_cap = 1 << 20;
constexpr const char* prefix = "step-";

io::Json state_json(const Experiment& experiment, const Progress& progress) {
  return {{"format_version", format_version},
          {"step", progress.step},
          {"position", progress.position},
          {"updates", experiment.optimizer.updates()},
          {"skipped", progress.skipped},
          {"skipped_in_a_row", progress.skipped_in_a_row},
          {"best_step", progress.best_step},
          {"best_accuracy", progress.best_accuracy},
          {"best_loss", progress.best_loss},
          {"evaluation_is_due", progress.evaluation_is_due},
          {"elapsed_seconds", progress.elapsed_seconds},
          {"fingerprint", fingerprint(experiment, progress)}};
}

io::Json read_small_json(const fs::path& path) {
  return io::parse_json(io::read_file(path, small_file_cap), path.string());
}

void write_manifest(const fs::path& folder, std::int64_t step) {
  io::Json files = io::Json::array();
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json"})
    files.push_back({{"name", name},
                     {"size", fs::file_size(folder / name)},
                     {"xxh3_128", io::to_hex(io::hash_of_file(folder / name))}});
  const io::Json manifest{{"format_version", format_version}, {"step", step}, {"files", files}};
  io::write_file(folder / "MANIFEST.json", io::dump_json(manifest, 2) + "\n");
}

/// Throws Error(bad_data) unless every file is as the manifest says.
void check_manifest(const fs::path& folder) {
  const fs::path path = folder / "MANIFEST.json";
  if (!fs::exists(path))
    throw_error(ExitCode::bad_data, "{}: has no MANIFEST.json: it was never completed", folder);
  const io::Json manifest = read_small_json(path);
  const std::int64_t version = io::json_integer(manifest, "format_version", path.string());
  if (version != format_version)
    throw_error(ExitCode::bad_data, "{}: format version must be {}, got {}; use the tern that wrote it", path,
                format_version, version);
  const io::Json& files = io::json_member(manifest, "files", path.string());
  if (!files.is_array() || files.size() != 3)
    throw_error(ExitCode::bad_data, "{}: must name three files", path);
  for (const io::Json& entry : files) {
    const std::string name = io::json_string(entry, "name", path.string());
    if (name.find('/') != std::string::npos)
      throw_error(ExitCode::bad_data, "{}: file names must not leave the folder, got {}", path, name);
    const fs::path file = folder / name;
    if (!fs::exists(file)) throw_error(ExitCode::bad_data, "{}: is missing", file);
    const auto size = static_cast<std::int64_t>(fs::file_size(file)), named = io::json_integer(entry, "size", path.string());
    if (size != named) throw_error(ExitCode::bad_data, "{}: must have {} bytes, got {}", file, named, size);
    const std::string hash = io::to_hex(io::hash_of_file(file)), expected = io::json_string(entry, "xxh3_128", path.string());
    if (hash != expected)
      throw_error(ExitCode::bad_data, "{}: its bytes changed: hash must be {}, got {}", file, expected, hash);
  }
}

std::optional<std::int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  const bool is_checkpoint = name.size() == std::string(prefix).size() + 8 && name.starts_with(prefix) &&
                             std::all_of(name.begin() + 5, name.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!is_checkpoint) return {};
  return std::stoll(name.substr(5));
}

std::vector<CheckpointStatus> find_checkpoints(const fs::path& folder) {
  std::vector<CheckpointStatus> found;
  if (!fs::is_directory(folder)) return found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const auto step = step_of(entry.path()); step && entry.is_directory()) found.push_back({entry.path(), *step, {}});
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

}  // namespace

fs::path checkpoint_path(const fs::path& folder, std::int64_t step) {
  const std::string digits = std::to_string(step);
  return folder / (prefix + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits);
}

std::int64_t checkpoint_bytes(const Experiment& experiment) {
  return experiment.store.count() * static_cast<std::int64_t>(size_of(experiment.store.dtype())) * 3 + 65536;
}

std::string fingerprint(const Experiment& experiment, const Progress& progress) {
  io::Hasher hasher;
  for (const Tensor& block :
       {experiment.store.values(), experiment.optimizer.first_moment(), experiment.optimizer.second_moment()})
    hasher.update(bytes_of(block));
  const std::array<std::int64_t, 3> numbers{progress.step, progress.position, experiment.optimizer.updates()};
  hasher.update(std::as_bytes(std::span(numbers)));
  return io::to_hex(hasher.digest());
}

fs::path save_checkpoint(const fs::path& folder, const Experiment& experiment, const Progress& progress) {
  const fs::path target = checkpoint_path(folder, progress.step);
  const fs::path temporary = folder / (std::string(io::temporary_prefix) + target.filename().string());
  return with_context([&] { return "saving " + target.string(); }, [&] {
    try {
      io::remove_tree(temporary);
      io::make_directory(temporary);
      save_parameters(temporary / "model.safetensors", experiment.store);
      save_moments(temporary / "optimizer.safetensors", experiment.store, experiment.optimizer);
      io::write_file(temporary / "state.json", io::dump_json(state_json(experiment, progress), 2) + "\n");
      write_manifest(temporary, progress.step);
      io::remove_tree(target);
      io::rename_path(temporary, target);
      io::sync_directory(folder);
    } catch (const Error&) {
      try {
        io::remove_tree(temporary);
      } catch (const Error& second) {
        logging::warning("checkpoint", "could not clean up: {}", second.what());
      }
      throw;
    }
    return target;
  });
}

Progress load_checkpoint(const fs::path& checkpoint, Experiment& experiment) {
  check_manifest(checkpoint);
  load_parameters(checkpoint / "model.safetensors", experiment.store);
  load_moments(checkpoint / "optimizer.safetensors", experiment.store, experiment.optimizer);
  const std::string where = (checkpoint / "state.json").string();
  const io::Json state = read_small_json(where);
  Progress progress;
  progress.step = io::json_integer(state, "step", where);
  progress.position = io::json_integer(state, "position", where);
  progress.skipped = io::json_integer(state, "skipped", where);
  progress.skipped_in_a_row = io::json_integer(state, "skipped_in_a_row", where);
  progress.best_step = io::json_integer(state, "best_step", where);
  progress.best_accuracy = io::json_number(state, "best_accuracy", where);
  progress.best_loss = io::json_number(state, "best_loss", where);
  progress.evaluation_is_due = io::json_member(state, "evaluation_is_due", where).get<bool>();
  progress.elapsed_seconds = io::json_number(state, "elapsed_seconds", where);
  experiment.optimizer.restore_updates(io::json_integer(state, "updates", where));
  experiment.state.step = static_cast<std::uint32_t>(progress.step);
  const std::string expected = io::json_string(state, "fingerprint", where), restored = fingerprint(experiment, progress);
  if (restored != expected)
    throw_error(ExitCode::bad_data, "{}: the restored state must have fingerprint {}, got {}", checkpoint, expected, restored);
  return progress;
}

CheckpointStatus verify_checkpoint(const fs::path& checkpoint) {
  CheckpointStatus status{checkpoint, step_of(checkpoint).value_or(0), {}};
  try {
    check_manifest(checkpoint);
  } catch (const Error& error) {
    status.fault = error.what();
  }
  return status;
}

std::vector<CheckpointStatus> list_checkpoints(const fs::path& folder) {
  std::vector<CheckpointStatus> found = find_checkpoints(folder);
  for (CheckpointStatus& status : found) status = verify_checkpoint(status.path);
  return found;
}

std::optional<Progress> resume_newest(const fs::path& folder, Experiment& experiment) {
  const std::vector<CheckpointStatus> found = find_checkpoints(folder);
  for (auto candidate = found.rbegin(); candidate != found.rend(); ++candidate) {
    const CheckpointStatus status = verify_checkpoint(candidate->path);
    if (status.fault.empty()) return load_checkpoint(status.path, experiment);
    fs::path aside = candidate->path;
    aside += ".corrupt";
    logging::warning("checkpoint", "passing over a damaged checkpoint, set aside as {}: {}", aside, status.fault);
    io::remove_tree(aside);
    io::rename_path(candidate->path, aside);
  }
  if (!found.empty())
    throw_error(ExitCode::bad_data, "{}: all {} checkpoints are damaged; start again with --resume none and another --out",
                folder, found.size());
  return {};
}

void rotate_checkpoints(const fs::path& folder, std::int64_t keep, std::int64_t best_step) {
  io::remove_temporaries(folder);
  const std::vector<CheckpointStatus> found = find_checkpoints(folder);
  const auto surplus = static_cast<std::int64_t>(found.size()) - keep;
  for (std::int64_t i = 0; i < surplus; ++i) {
    const CheckpointStatus& old = found[static_cast<std::size_t>(i)];
    if (old.step != best_step) io::remove_tree(old.path);
  }
}

}  // namespace tern
