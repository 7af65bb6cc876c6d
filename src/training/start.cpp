#include "training/start.h"

#include <set>

#include "io/atomic_file.h"
#include "io/hash.h"
#include "io/safetensors.h"
#include "tern/logging.h"
#include "training/parameter_file.h"
#include "training/run_files.h"

namespace tern {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t start_file_cap = 1 << 20;
constexpr std::string_view encoder = "encoder.";
constexpr auto remedy = "start from a run whose model and task.padded_length agree";

bool is_in_encoder(const std::string& path) { return path.starts_with(encoder); }

void require_same_encoder(const io::SafetensorsFile& file, const ParameterStore& store) {
  std::set<std::string> expected;
  for (const Parameter& parameter : store.parameters()) {
    if (!is_in_encoder(parameter.path)) continue;
    expected.insert(parameter.path);
    const io::TensorRecord* record = file.find(parameter.path);
    if (record == nullptr)
      throw_error(ExitCode::bad_data, "{}: has no {}, which this model needs; {}", file.path(), parameter.path,
                  remedy);
    if (record->dtype != parameter.master.dtype() || Shape(record->shape) != parameter.master.shape())
      throw_error(ExitCode::bad_data, "{}: {} must be {} {} for this model, got {} {}; {}", file.path(),
                  parameter.path, parameter.master.dtype(), parameter.master.shape(), record->dtype,
                  Shape(record->shape), remedy);
  }
  for (const io::TensorRecord& record : file.tensors())
    if (is_in_encoder(record.name) && !expected.contains(record.name))
      throw_error(ExitCode::bad_data, "{}: holds {}, which this model does not have; {}", file.path(),
                  record.name, remedy);
}

/// A run that was stopped has a best checkpoint too, of fewer steps than its name promises.
void require_end_of_run(const fs::path& source, const ChosenCheckpoint& chosen) {
  const bool is_run = fs::exists(source / "config.resolved.yaml");
  if (is_run && !fs::exists(source / "result.json"))
    throw_error(ExitCode::bad_data,
                "training.start_from: {}: must have finished, its best checkpoint yet is of step {}; let it "
                "finish, or name that one: {}",
                source, chosen.step, chosen.path);
}

/// `file` as it lies in `source`, for results that leave this machine; the file's name where both are one.
fs::path file_in(const fs::path& source, const fs::path& file) {
  const fs::path inside = fs::relative(file, source);
  return inside == "." ? file.filename() : inside;
}

}  // namespace

io::Json start_from(const fs::path& source, ParameterStore& store) {
  const ChosenCheckpoint chosen = choose_checkpoint(source);
  require_end_of_run(source, chosen);
  const io::SafetensorsFile file(chosen.parameters());
  require_same_encoder(file, store);
  std::int64_t count = 0;
  for (const Parameter& parameter : store.parameters()) {
    if (!is_in_encoder(parameter.path)) continue;
    read_parameter(file, parameter);
    count += parameter.master.count();
  }
  store.round_values();
  logging::info("train", "{} parameters of the encoder are those of {}", count, chosen.path);
  return {{"source", source.string()},
          {"file", file_in(source, file.path()).string()},
          {"step", chosen.step},
          {"parameters", count},
          {"xxh3_128", io::to_hex(io::hash_of_file(file.path()))}};
}

io::Json read_start(const fs::path& run) {
  const fs::path file = run / start_file;
  return io::parse_json(io::read_file(file, start_file_cap), file.string());
}

void keep_start(const fs::path& origin, RunFolder& folder) {
  if (fs::exists(folder.file(start_file))) return;
  if (!fs::exists(origin / start_file))
    throw_error(ExitCode::failed,
                "training.start_from: the run that goes on must have begun with it, got a checkpoint whose run "
                "has no {}; leave it out, or start anew with --resume none",
                start_file);
  folder.write_json(start_file, read_start(origin));
}

}  // namespace tern
