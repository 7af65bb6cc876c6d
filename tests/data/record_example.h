// Small record files for tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/record_file.h"

namespace tern::test {

using Sequence = std::vector<std::int32_t>;

/// Ids in [0, vocabulary) and lengths in [0, longest], a fixed function of (record, which): about one id in six
/// is 0.
inline Sequence example_sequence(std::int64_t record, int which, std::int64_t vocabulary,
                                 std::int64_t longest) {
  std::uint64_t state = static_cast<std::uint64_t>(record) * 2 + static_cast<std::uint64_t>(which) + 1;
  const auto next = [&](std::uint64_t count) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % count;
  };
  Sequence ids(next(static_cast<std::uint64_t>(longest) + 1));
  for (auto& id : ids)
    id = next(6) == 0 ? 0 : static_cast<std::int32_t>(next(static_cast<std::uint64_t>(vocabulary)));
  return ids;
}

inline data::RecordHeader example_header(int sequences_per_record = 1, DType type = DType::uint8,
                                         data::LabelKind kind = data::LabelKind::classes) {
  data::RecordHeader header;
  header.task = "example";
  header.split = "train";
  header.options = R"({"size":3})";
  header.seed = 5;
  header.vocabulary = type == DType::uint8 ? 200 : type == DType::uint16 ? 60000 : 1000000;
  header.classes = kind == data::LabelKind::classes ? 7 : 0;
  header.sequences_per_record = sequences_per_record;
  header.token_type = type;
  header.label_kind = kind;
  header.padded_length = 64;
  return header;
}

/// Writes `records` example records of at most 40 tokens; record r has class r % 7 or target r / 4.
inline data::RecordHeader write_example(const std::filesystem::path& path, std::int64_t records,
                                        const data::RecordHeader& header) {
  data::RecordWriter writer(path, header);
  for (std::int64_t record = 0; record < records; ++record) {
    std::vector<Sequence> sequences;
    for (int which = 0; which < header.sequences_per_record; ++which) {
      sequences.push_back(example_sequence(record, which, header.vocabulary, 40));
    }
    const std::vector<std::span<const std::int32_t>> views(sequences.begin(), sequences.end());
    if (header.label_kind == data::LabelKind::classes) {
      writer.append(views, static_cast<std::int32_t>(record % 7));
    } else {
      writer.append(views, static_cast<float>(record) / 4);
    }
  }
  return writer.finish();
}

inline Sequence to_sequence(const data::TokenSpan& ids) {
  Sequence sequence;
  for (std::int64_t i = 0; i < ids.size(); ++i) sequence.push_back(ids[i]);
  return sequence;
}

}  // namespace tern::test
