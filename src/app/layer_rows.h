// Query, key and value rows of a trained model, as a layer's attention mechanism gets them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tern/tensor.h"

namespace tern::app {

struct LayerSource {
  std::filesystem::path path;  ///< run folder (its best checkpoint on dev), checkpoint, or .safetensors file
  std::vector<std::string> overrides;  ///< of the run's configuration: "task.data=FOLDER"
  std::int64_t layer = 0;
  std::int64_t records = 8;  ///< the first ones of the dev split
};

struct LayerRows {
  Tensor query, key, value;           ///< [tokens, heads, head_width] float32 on the CPU
  std::vector<std::int32_t> offsets;  ///< [sequences + 1] first row of each sequence
  std::vector<std::int64_t> sample;   ///< [sequences]
  std::int64_t padded_length = 0;
  std::filesystem::path checkpoint;
  std::int64_t step = 0;
};

/// Runs the model, outside training and on the CPU, over one batch of the run's dev split. Throws
/// Error(missing_input) or Error(bad_data) for files, Error(failed) where there is no such layer.
LayerRows layer_rows(const LayerSource& source);

/// The first `length` rows of each sequence that has as many. Error(failed) if none has.
LayerRows first_rows(const LayerRows& rows, std::int64_t length);

}  // namespace tern::app
