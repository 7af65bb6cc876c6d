// What a trained model must know of its task, in its run folder: predictions then need no training data.
#pragma once

#include <filesystem>

#include "io/json.h"
#include "tern/task.h"

namespace tern::tasks {

inline constexpr std::string_view task_file_name = "task.json";

/// All of a task but its data's places.
io::Json to_json(const Task& task);

/// The task in a run folder's task.json. Error(missing_input) without it, Error(bad_data) for a damaged one.
Task read_task(const std::filesystem::path& run);

}  // namespace tern::tasks
