#include "training/start.h"

#include <set>

#include "io/hash.h"
#include "io/safetensors.h"
#include "tern/logging.h"
#include "training/parameter_file.h"
#include "training/run_files.h"

namespace tern {
namespace {

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

}  // namespace

io::Json start_from(const std::filesystem::path& source, ParameterStore& store) {
  const ChosenCheckpoint chosen = choose_checkpoint(source);
  const io::SafetensorsFile file(std::filesystem::is_directory(chosen.path) ? chosen.path / "model.safetensors"
                                                                            : chosen.path);
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
          {"file", file.path().string()},
          {"step", chosen.step},
          {"parameters", count},
          {"xxh3_128", io::to_hex(io::hash_of_file(file.path()))}};
}

}  // namespace tern
