// Checkpoints: a folder step-NNNNNNNN with model.safetensors, optimizer.safetensors and state.json, complete if
// and only if it holds a MANIFEST.json that names every file with its size and XXH3-128; the manifest is
// written last. Tensors are the master values: every device and precision reads what another one wrote.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tern/experiment.h"

namespace tern {

/// What a run remembers besides tensors.
struct Progress {
  std::int64_t step = 0;      ///< batches consumed, applied or skipped
  std::int64_t position = 0;  ///< records consumed
  std::int64_t skipped = 0, skipped_in_a_row = 0;
  std::int64_t best_step = 0;  ///< 0: not evaluated yet
  double best_accuracy = 0, best_loss = 0;
  bool evaluation_is_due = false;  ///< interrupted inside an evaluation
  double elapsed_seconds = 0;      ///< of all parts of the run; not in the fingerprint
  double evaluation_seconds = 0;   ///< of these, spent on dev
};

struct CheckpointStatus {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::string fault;  ///< empty: complete and every hash agrees
};

/// Hash of all parameters, moments, the number of updates and the position: equal runs have equal fingerprints.
/// Waits for the device.
std::string fingerprint(const Experiment& experiment, const Progress& progress);

/// Writes step-<progress.step> into `folder` and returns its path: into a temporary folder, synced, manifest
/// last, renamed. A half-written folder of that name is replaced. Throws Error(io_error) or
/// Error(cannot_create) and removes what it wrote.
std::filesystem::path save_checkpoint(const std::filesystem::path& folder, const Experiment& experiment,
                                      const Progress& progress);

/// Restores everything. Throws Error(bad_data) naming the file and the reason for any damage, and if the model
/// differs.
Progress load_checkpoint(const std::filesystem::path& checkpoint, Experiment& experiment);

/// Restores the parameters only, from a checkpoint folder, which is verified first, or a safetensors file.
void load_parameters(const std::filesystem::path& source, ParameterStore& store);
void save_parameters(const std::filesystem::path& file, const ParameterStore& store);

/// Hashes every file: empty text, or what is wrong.
CheckpointStatus verify_checkpoint(const std::filesystem::path& checkpoint);

/// The checkpoints of a folder by rising step, each verified. No folder: none.
std::vector<CheckpointStatus> list_checkpoints(const std::filesystem::path& folder);

/// Restores the newest complete checkpoint; up to three damaged newer ones are named in a warning and set aside
/// as `<name>.corrupt`. Nothing if there is no checkpoint at all; Error(bad_data) naming each fault, with all
/// left in place, if none that may be taken is complete.
std::optional<Progress> resume_newest(const std::filesystem::path& folder, Experiment& experiment);

/// Renames the checkpoints after `step` to `<name>.abandoned`: a run that continues from an earlier one
/// replaces them.
void set_newer_aside(const std::filesystem::path& folder, std::int64_t step);

/// Removes temporaries and the oldest checkpoints, but never `best_step` nor the newest `keep`.
void rotate_checkpoints(const std::filesystem::path& folder, std::int64_t keep, std::int64_t best_step);

/// Writes the mean of the parameters of several checkpoints to one safetensors file.
void average_checkpoints(const std::vector<std::filesystem::path>& checkpoints,
                         const std::filesystem::path& file);

/// Bytes of one checkpoint of this experiment, roughly.
std::int64_t checkpoint_bytes(const Experiment& experiment);

std::filesystem::path checkpoint_path(const std::filesystem::path& folder, std::int64_t step);

}  // namespace tern
