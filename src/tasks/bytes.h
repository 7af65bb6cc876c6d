// Texts as sequences of their bytes: id = byte + 1, so that 0 stays padding.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/loader.h"
#include "tern/task.h"

namespace tern::tasks {

inline constexpr std::int64_t byte_vocabulary = 257;

/// The ids of the first `longest` bytes of a text; 0 means all.
std::vector<std::int32_t> byte_ids(std::string_view text, std::int64_t longest);

/// A batch without labels of consecutive records, of which the first has the number `first`: each is as many
/// texts as the task takes. It equals what a loader makes of a record file with the same texts.
data::Batch byte_batch(std::span<const std::vector<std::string>> records, std::int64_t first, const Task& task);

}  // namespace tern::tasks
