#include "tasks/bytes.h"

#include <algorithm>
#include <numeric>

#include "tern/error.h"

namespace tern::tasks {

std::vector<std::int32_t> byte_ids(std::string_view text, std::int64_t longest) {
  if (longest > 0) text = text.substr(0, static_cast<std::size_t>(longest));
  std::vector<std::int32_t> ids(text.size());
  std::transform(text.begin(), text.end(), ids.begin(),
                 [](char byte) { return static_cast<unsigned char>(byte) + 1; });
  return ids;
}

data::Batch byte_batch(std::span<const std::vector<std::string>> records, std::int64_t first,
                       const Task& task) {
  data::Batch batch;
  batch.records = static_cast<std::int64_t>(records.size());
  batch.padded_length = task.interface.padded_length;
  batch.offsets.push_back(0);
  const std::size_t texts = task.interface.is_pair ? 2 : 1;
  for (std::size_t which = 0; which < texts; ++which) {
    for (std::size_t r = 0; r < records.size(); ++r) {
      require(records[r].size() == texts, "a record must have {} texts, got {}", texts, records[r].size());
      const std::vector<std::int32_t> ids = byte_ids(records[r][which], task.max_length);
      require(batch.tokens.size() + ids.size() <= static_cast<std::size_t>(INT32_MAX),
              "a batch must have at most 2^31 - 1 tokens; lower the batch size");
      batch.tokens.insert(batch.tokens.end(), ids.begin(), ids.end());
      batch.position.resize(batch.tokens.size());
      std::iota(batch.position.end() - static_cast<std::ptrdiff_t>(ids.size()), batch.position.end(), 0);
      batch.offsets.push_back(static_cast<std::int32_t>(batch.tokens.size()));
      batch.longest = std::max(batch.longest, static_cast<std::int64_t>(ids.size()));
      batch.sample.push_back(static_cast<std::int64_t>(texts) * (first + static_cast<std::int64_t>(r)) +
                             static_cast<std::int64_t>(which));
    }
  }
  return batch;
}

}  // namespace tern::tasks
