// A task: prepared splits, what the model must know of them, and how they are read.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tern/config.h"
#include "tern/encoder.h"

namespace tern {

/// How new records are read from a table (`tern predict`) by a task whose ids are the bytes of texts plus 1.
struct TextColumns {
  std::vector<std::string> names;  ///< one, or both of a pair, as in io/table.h; empty: the task reads no texts
  bool has_header = false;         ///< whether the first line is a header also where the names are numbers
};

/// Everything that training needs of a task; its data are three record files (data/record_file.h).
struct Task {
  std::string name;  ///< its kind, which its record files name too; empty: any files
  TaskInterface interface;
  std::filesystem::path train, dev, test;
  std::int64_t max_length = 0;           ///< sequences are cut to this many places; 0 means uncut
  bool mask_zero = true;                 ///< ids equal to 0 are absent
  std::vector<std::string> class_names;  ///< by class; empty: their numbers
  TextColumns text_columns;
  std::string prepare_command;  ///< what makes the data: shown when they are missing
};

struct TaskKind {
  std::string_view name, summary;
  ChoiceKind config;
  std::function<Task(const Choice& config)> make;
};

/// Every task that a configuration can name. Defined in src/tasks/registry.cpp.
const std::vector<TaskKind>& task_kinds();
std::span<const ChoiceKind> task_choices();
Task make_task(const Choice& config);

}  // namespace tern
