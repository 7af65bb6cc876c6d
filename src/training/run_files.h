// Finding the configuration and checkpoints of a run from a path that a person typed or configured.
#pragma once

#include <filesystem>

#include "tern/checkpoint.h"

namespace tern {

/// The folder at or above `path` that holds config.resolved.yaml. Error(missing_input) if there is none.
std::filesystem::path run_folder_of(const std::filesystem::path& path);

struct ChosenCheckpoint {
  std::filesystem::path path;  ///< a checkpoint folder or a safetensors file
  std::int64_t step = 0;       ///< 0 for a safetensors file

  /// The file with its parameters.
  std::filesystem::path parameters() const;
};
/// `path` itself if it is a checkpoint or a file, and the checkpoint of one's model.safetensors; else the best
/// checkpoint on dev of the run folder `path`, or the newest if it never was evaluated. Error(missing_input) if
/// there is none, Error(bad_data) if it is damaged.
ChosenCheckpoint choose_checkpoint(const std::filesystem::path& path);

/// The run folder that a checkpoint lies in, if it lies in one.
std::filesystem::path run_of_checkpoint(const std::filesystem::path& checkpoint);

/// Step of the best checkpoint on dev, as far as the run's files tell; 0 if they do not.
std::int64_t best_step_of(const std::filesystem::path& run);

}  // namespace tern
