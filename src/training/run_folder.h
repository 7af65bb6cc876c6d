// A run's folder on disk: config.resolved.yaml, task.json, environment.json, metrics.jsonl, log.txt,
// initial.safetensors, checkpoints/, anomalies, result.json.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "io/file_system.h"
#include "io/folder_lock.h"
#include "io/json.h"
#include "tern/experiment.h"

namespace tern {

class RunFolder {
 public:
  /// Makes the folder, writes configuration, task and environment, and opens the log. A folder that holds
  /// checkpoints of another configuration (bad_config, unless only changeable keys differ) or of other data
  /// (bad_data) is refused before anything is written. Warns where another training.steps changes the schedule.
  RunFolder(const std::filesystem::path& path, const ExperimentConfig& config, const Task& task);
  /// Closes the log.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path file(std::string_view name) const { return path_ / name; }

  /// Error(io_error) if the folder was removed or replaced since.
  void require_held() const { lock_->require_held(); }

  /// Renames result.json, which a run that goes on after `step` does not have yet, to result-<step>.json.
  void set_result_aside(std::int64_t step);
  /// Drops the rows of metrics.jsonl that come after `step` (a resumed run writes them again) and opens it for
  /// appending.
  void open_metrics(std::int64_t step);
  /// Appends one row. A disk that is full costs rows and a warning, not the run.
  void write_row(const io::Json& row);
  void write_json(std::string_view name, const io::Json& value);

 private:
  std::filesystem::path path_;
  std::optional<io::FolderLock> lock_;
  std::unique_ptr<io::OutputFile> metrics_;
  bool is_cut_ = false;  ///< whether the last row may be half written
};

/// Error(bad_data) where the task of the run in `folder`, which its task.json tells, is not `task`: data that
/// were made anew may have other classes, or the same in another order.
void require_task_of_run(const std::filesystem::path& folder, const Task& task);

/// Versions, processor, libraries and build of this process.
io::Json environment_json();
/// Peak bytes of all tensors, and of the tensors that each module allocated.
io::Json memory_json();

}  // namespace tern
