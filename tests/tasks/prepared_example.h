// Reads prepared splits back as plain values.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tasks/prepared_data.h"

namespace tern::test {

/// The ids of each sequence of a record, and its class.
using PreparedRecord = std::pair<std::vector<std::vector<int>>, int>;

inline std::vector<PreparedRecord> read_split(const std::filesystem::path& folder, std::string_view split) {
  const data::RecordFile file(tasks::split_file(folder, split));
  file.verify();
  std::vector<PreparedRecord> records;
  for (std::int64_t record = 0; record < file.count(); ++record) {
    std::vector<std::vector<int>> sequences;
    for (int which = 0; which < file.header().sequences_per_record; ++which) {
      const data::TokenSpan ids = file.tokens(record, which);
      std::vector<int> sequence;
      for (std::int64_t i = 0; i < ids.size(); ++i) sequence.push_back(ids[i]);
      sequences.push_back(sequence);
    }
    records.emplace_back(sequences, file.label(record));
  }
  return records;
}

/// Ids of bytes written down: "AB" -> 66, 67.
inline std::vector<int> ids_of(std::string_view text) {
  std::vector<int> ids;
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte) + 1);
  return ids;
}

}  // namespace tern::test
