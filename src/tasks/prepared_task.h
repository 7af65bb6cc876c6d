// What the tasks share whose data `tern data prepare` writes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "tern/task.h"

namespace tern::tasks {

/// A task with the splits of the folder `data`.
Task prepared_task(const std::filesystem::path& data, const TaskInterface& interface);

/// Settings of a task whose sequences are cut to max_length, and were padded to padded_length where published.
struct SequenceConfig {
  std::filesystem::path data;
  std::int64_t max_length, padded_length, vocabulary;

  /// `kept`: what max_length says, which is at most `longest`. `ids`: rows of the token table that data use.
  void fields(Fields& f, std::int64_t ids, std::string_view kept, std::int64_t longest = 1 << 24);
  Task task(std::int64_t classes, std::int64_t ids, bool is_pair = false) const;
};

}  // namespace tern::tasks
