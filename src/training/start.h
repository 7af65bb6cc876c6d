// Training that starts from another run's encoder (training.start_from).
#pragma once

#include "io/json.h"
#include "tern/experiment.h"

namespace tern {

/// Takes the parameters below "encoder." from the run, checkpoint or safetensors file `source`; the head keeps
/// its initial values. Returns what was taken: source, step, hash of the parameters' file, and how many
/// numbers. Error(missing_input) without the source, Error(bad_data) that names the parameter where the two
/// encoders do not have the same ones in the same shapes; then none is changed.
io::Json start_from(const std::filesystem::path& source, ParameterStore& store);

}  // namespace tern
