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
  /// Makes the folder and opens its log. A folder that holds checkpoints of another configuration is refused
  /// (bad_config) unless only changeable keys differ.
  RunFolder(const std::filesystem::path& path, const ExperimentConfig& config);
  /// Closes the log.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path file(const std::string& name) const { return path_ / name; }

  /// Drops the rows of metrics.jsonl that come after `step` (a resumed run writes them again) and opens it for
  /// appending.
  void open_metrics(std::int64_t step);
  /// Appends one row. A disk that is full costs rows and a warning, not the run.
  void write_row(const io::Json& row);
  void write_json(const std::string& name, const io::Json& value);

 private:
  std::filesystem::path path_;
  std::optional<io::FolderLock> lock_;
  std::unique_ptr<io::OutputFile> metrics_;
  bool is_cut_ = false;  ///< whether the last row may be half written
};

/// Versions, processor, libraries and build of this process.
io::Json environment_json();
/// Peak bytes of all tensors, and of the tensors that each module allocated.
io::Json memory_json();

}  // namespace tern
