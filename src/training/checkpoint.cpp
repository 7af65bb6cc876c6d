#include "tern/checkpoint.h"

#include <algorithm>
#include <array>
#include <string_view>

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
constexpr std::string_view prefix = "step-";
constexpr std::size_t least_digits = 8;
constexpr std::array file_names{"model.safetensors", "optimizer.safetensors", "state.json"};
/// More damaged checkpoints in a row than this are no accident of one file.
constexpr std::size_t most_fallbacks = 3;

io::Json state_json(const Experiment& experiment, const Progress& progress) {
  return {{"format_version", format_version},
          {"step", progress.step},
          {"position", progress.position},
          {"updates", experiment.state.read().updates},
          {"skipped", progress.skipped},
          {"skipped_in_a_row", progress.skipped_in_a_row},
          {"best_step", progress.best_step},
          {"best_accuracy", progress.best_accuracy},
          {"best_loss", progress.best_loss},
          {"evaluation_is_due", progress.evaluation_is_due},
          {"elapsed_seconds", progress.elapsed_seconds},
          {"evaluation_seconds", progress.evaluation_seconds},
          {"fingerprint", fingerprint(experiment, progress)}};
}

io::Json read_small_json(const fs::path& path) {
  return io::parse_json(io::read_file(path, small_file_cap), path.string());
}

void write_manifest(const fs::path& folder, std::int64_t step) {
  io::Json files = io::Json::array();
  for (const char* name : file_names)
    files.push_back({{"name", name},
                     {"size", fs::file_size(folder / name)},
                     {"xxh3_128", io::to_hex(io::hash_of_file(folder / name))}});
  const io::Json manifest{{"format_version", format_version}, {"step", step}, {"files", files}};
  io::write_file(folder / "MANIFEST.json", io::dump_json(manifest, 2) + "\n");
}

constexpr std::string_view other_checkpoint = "choose another, which tern checkpoint list shows";

void check_file(const fs::path& file, const io::Json& entry, const std::string& manifest) {
  if (!fs::is_regular_file(file)) throw_error(ExitCode::bad_data, "{}: is missing; {}", file, other_checkpoint);
  const auto size = static_cast<std::int64_t>(fs::file_size(file)),
             named = io::json_integer(entry, "size", manifest);
  if (size != named)
    throw_error(ExitCode::bad_data, "{}: must have {} bytes, got {}; {}", file, named, size, other_checkpoint);
  const std::string hash = io::to_hex(io::hash_of_file(file)),
                    expected = io::json_string(entry, "xxh3_128", manifest);
  if (hash != expected)
    throw_error(ExitCode::bad_data, "{}: its bytes changed: hash must be {}, got {}; {}", file, expected, hash,
                other_checkpoint);
}

/// Throws Error(bad_data) unless every file is as the manifest says.
void check_manifest(const fs::path& folder) {
  if (!fs::exists(folder)) throw_error(ExitCode::missing_input, "{}: there is no such checkpoint", folder);
  const fs::path path = folder / "MANIFEST.json";
  if (!fs::exists(path))
    throw_error(ExitCode::bad_data, "{}: has no MANIFEST.json: it was never completed; {}", folder,
                other_checkpoint);
  const io::Json manifest = read_small_json(path);
  const std::int64_t version = io::json_integer(manifest, "format_version", path.string());
  if (version != format_version)
    throw_error(ExitCode::bad_data, "{}: format version must be {}, got {}; use the tern that wrote it", path,
                format_version, version);
  const io::Json& files = io::json_member(manifest, "files", path.string());
  if (!files.is_array() || files.size() != file_names.size())
    throw_error(ExitCode::bad_data, "{}: must name {} files", path, file_names.size());
  for (std::size_t i = 0; i < file_names.size(); ++i) {
    const std::string name = io::json_string(files[i], "name", path.string());
    if (name != file_names[i])
      throw_error(ExitCode::bad_data, "{}: file {} must be {}, got {}", path, i + 1, file_names[i], name);
    check_file(folder / name, files[i], path.string());
  }
  // No hash covers the manifest itself: what it says besides hashes is compared with a file that one covers.
  const fs::path state = folder / "state.json";
  const std::int64_t step = io::json_integer(manifest, "step", path.string()),
                     expected = io::json_integer(read_small_json(state), "step", state.string());
  if (step != expected)
    throw_error(ExitCode::bad_data, "{}: step must be {} as in state.json, got {}", path, expected, step);
}

/// The step that a checkpoint folder's name gives; nothing for other names.
std::optional<std::int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(prefix)) return {};
  const std::string digits = name.substr(prefix.size());
  const bool is_padded = digits.size() == least_digits || (digits.size() > least_digits && digits[0] != '0');
  const bool is_number = std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!is_padded || !is_number || digits.size() > 18) return {};
  return std::stoll(digits);
}

std::vector<CheckpointStatus> find_checkpoints(const fs::path& folder) {
  std::vector<CheckpointStatus> found;
  if (!fs::is_directory(folder)) return found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const auto step = step_of(entry.path()); step && entry.is_directory())
      found.push_back({entry.path(), *step, {}});
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

fs::path temporary_of(const fs::path& target) {
  return target.parent_path() / (std::string(io::temporary_prefix) + target.filename().string());
}
/// Where a checkpoint waits while another one takes its name.
fs::path replaced_of(const fs::path& target) {
  return target.parent_path() / (std::string(io::temporary_prefix) + "replaced-" + target.filename().string());
}

void remove_or_warn(const fs::path& path) {
  try {
    io::remove_tree(path);
  } catch (const Error& error) {
    logging::warning("checkpoint", "could not clean up: {}", error.what());
  }
}

/// Gives the complete `temporary` its name. A checkpoint that has the name already is moved aside first and
/// comes back on failure; a kill between the two renames leaves both complete, for finish_renames().
void publish(const fs::path& temporary, const fs::path& target) {
  const fs::path replaced = replaced_of(target);
  const bool replaces = fs::exists(target);
  if (replaces) {
    io::remove_tree(replaced);
    io::rename_path(target, replaced);
  }
  try {
    io::rename_path(temporary, target);
  } catch (const Error&) {
    if (replaces) io::rename_path(replaced, target);
    throw;
  }
  io::sync_directory(target.parent_path());
  if (replaces) remove_or_warn(replaced);
}

/// Renames a checkpoint so that it is no longer taken for one, and returns its new name.
fs::path set_aside(const fs::path& checkpoint, std::string_view suffix) {
  fs::path aside = checkpoint;
  aside += suffix;
  io::remove_tree(aside);
  io::rename_path(checkpoint, aside);
  io::sync_directory(checkpoint.parent_path());
  return aside;
}

/// Completes what a kill inside publish() interrupted: complete checkpoints that lack their name get it.
void finish_renames(const fs::path& folder) {
  if (!fs::is_directory(folder)) return;
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
  for (const fs::path& entry : entries) {
    std::string name = entry.filename().string();
    if (!name.starts_with(io::temporary_prefix)) continue;
    name.erase(0, io::temporary_prefix.size());
    const bool was_replaced = name.starts_with("replaced-");
    if (was_replaced) name.erase(0, std::string_view("replaced-").size());
    const fs::path target = folder / name;
    if (!step_of(target) || fs::exists(target) || !verify_checkpoint(entry).fault.empty()) continue;
    if (was_replaced && verify_checkpoint(temporary_of(target)).fault.empty()) continue;
    io::rename_path(entry, target);
    io::sync_directory(folder);
  }
}

}  // namespace

fs::path checkpoint_path(const fs::path& folder, std::int64_t step) {
  const std::string digits = std::to_string(step);
  const std::string zeros(digits.size() < least_digits ? least_digits - digits.size() : 0, '0');
  return folder / (std::string(prefix) + zeros + digits);
}

std::int64_t checkpoint_bytes(const Experiment& experiment) {
  return experiment.store.count() * static_cast<std::int64_t>(size_of(experiment.store.values().dtype())) * 3 +
         65536;
}

std::string fingerprint(const Experiment& experiment, const Progress& progress) {
  io::Hasher hasher;
  for (const Tensor& block :
       {experiment.store.values(), experiment.optimizer.first_moment(), experiment.optimizer.second_moment()})
    hasher.update(bytes_of(packed_on_host(experiment.store, block)));
  const std::array<std::int64_t, 3> numbers{progress.step, progress.position, experiment.state.read().updates};
  hasher.update(std::as_bytes(std::span(numbers)));
  return io::to_hex(hasher.digest());
}

fs::path save_checkpoint(const fs::path& folder, const Experiment& experiment, const Progress& progress) {
  const fs::path target = checkpoint_path(folder, progress.step);
  const fs::path temporary = temporary_of(target);
  return with_context(
      [&] { return "saving " + target.string(); },
      [&] {
        try {
          io::remove_tree(temporary);
          io::make_directory(temporary);
          save_parameters(temporary / "model.safetensors", experiment.store);
          save_moments(temporary / "optimizer.safetensors", experiment.store, experiment.optimizer);
          io::write_file(temporary / "state.json", io::dump_json(state_json(experiment, progress), 2) + "\n");
          write_manifest(temporary, progress.step);
          publish(temporary, target);
        } catch (...) {
          remove_or_warn(temporary);
          if (fs::exists(target)) remove_or_warn(replaced_of(target));
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
  progress.evaluation_is_due = io::json_boolean(state, "evaluation_is_due", where);
  progress.elapsed_seconds = io::json_number(state, "elapsed_seconds", where);
  if (state.contains("evaluation_seconds"))  // 0.1.0 did not write it
    progress.evaluation_seconds = io::json_number(state, "evaluation_seconds", where);
  experiment.state.set_updates(io::json_integer(state, "updates", where));
  experiment.state.set_step(static_cast<std::uint32_t>(progress.step));
  const std::string expected = io::json_string(state, "fingerprint", where),
                    restored = fingerprint(experiment, progress);
  if (restored != expected)
    throw_error(ExitCode::bad_data, "{}: the restored state must have fingerprint {}, got {}", checkpoint,
                expected, restored);
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
  finish_renames(folder);
  std::vector<CheckpointStatus> found = find_checkpoints(folder), damaged;
  for (; !found.empty() && damaged.size() <= most_fallbacks; found.pop_back()) {
    const CheckpointStatus status = verify_checkpoint(found.back().path);
    if (!status.fault.empty()) {
      damaged.push_back(status);
      continue;
    }
    for (const CheckpointStatus& newer : damaged)
      logging::warning("checkpoint", "passing over a damaged checkpoint, set aside as {}: {}",
                       set_aside(newer.path, ".corrupt"), newer.fault);
    return load_checkpoint(status.path, experiment);
  }
  if (damaged.empty()) return {};
  // Nothing is renamed here: the next start must find them damaged again, not begin anew without a word.
  std::string faults;
  for (const CheckpointStatus& status : damaged) faults += "\n  " + status.fault;
  throw_error(ExitCode::bad_data,
              "{}: the newest {} checkpoints are all damaged; check the disk, then name a complete one with "
              "--resume PATH or start again with another --out:{}",
              folder, damaged.size(), faults);
}

void set_newer_aside(const fs::path& folder, std::int64_t step) {
  for (const CheckpointStatus& newer : find_checkpoints(folder))
    if (newer.step > step)
      logging::warning("checkpoint", "step {} comes after the one continued from; set aside as {}", newer.step,
                       set_aside(newer.path, ".abandoned"));
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
