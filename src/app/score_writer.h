// The rows that `tern predict` writes, in the order of the input.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "io/atomic_file.h"
#include "io/table.h"
#include "tern/task.h"

namespace tern::app {

/// Writes to stdout, or to a file that appears once it is complete.
///
/// JSON Lines: {"row": 1, "class": "good", "probabilities": {"bad": 0.25, "good": 0.75}} for classes and
/// {"row": 1, "value": 2.5} for a regression; with the record's label behind the row where it has one; and
/// {"row": 1, "error": "..."} for a row that could not be read. TSV: the same columns under a header line, of
/// which a row that could not be read has only the first.
class ScoreWriter {
 public:
  /// Without a path, stdout. Errors of io::AtomicFile.
  ScoreWriter(const std::optional<std::filesystem::path>& path, io::TableFormat format, const Task& task,
              bool has_labels);

  /// The model's outputs for one record: logits, or one number. Error(failed) where they are not finite.
  void write(std::span<const double> outputs, const std::string& label = "");
  void write_fault(const std::string& fault);
  /// Writes what is held back; the file appears.
  void finish();
  /// Rows written.
  std::int64_t rows() const { return rows_; }

 private:
  std::string class_name(std::size_t index) const;
  std::string tsv_row(std::span<const double> outputs, const std::string& label) const;
  std::string json_row(std::span<const double> outputs, const std::string& label) const;
  void put(const std::string& line);

  std::optional<io::AtomicFile> file_;
  io::TableFormat format_;
  const Task& task_;
  bool has_labels_;
  std::int64_t rows_ = 0;
};

}  // namespace tern::app
