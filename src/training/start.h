// Training that starts from another run's encoder (training.start_from).
#pragma once

#include "io/json.h"
#include "tern/experiment.h"
#include "training/run_folder.h"

namespace tern {

/// Takes the parameters below "encoder." from the run, checkpoint or safetensors file `source`; the head keeps
/// its initial values. Returns what was taken: source, the parameters' file in it, its hash, the step, and how
/// many numbers. Error(missing_input) without the source, Error(bad_data) that names the parameter where the
/// two encoders do not have the same ones in the same shapes; then none is changed. A run must have finished
/// (bad_data).
io::Json start_from(const std::filesystem::path& source, ParameterStore& store);

inline constexpr std::string_view start_file = "start.json";

/// What start_from() returned to the run in the folder. Error(missing_input) or Error(bad_data) for the file.
io::Json read_start(const std::filesystem::path& run);
/// Takes it along from the run that `folder`'s run goes on from, unless it is there already. Error(failed)
/// where that run began otherwise.
void keep_start(const std::filesystem::path& origin, RunFolder& folder);

}  // namespace tern
