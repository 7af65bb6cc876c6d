// A regression on generated sequences.
#pragma once

#include <algorithm>
#include <vector>

#include "data/record_file.h"
#include "tern/task.h"

namespace tern::test {

/// Sequences of 12 ids; the target is the share of the id 1 among ids 1 and 2. Or, of `kind` classes, class 0.
inline void write_numbers(const std::filesystem::path& file, std::int64_t records,
                          data::LabelKind kind = data::LabelKind::target) {
  data::RecordHeader header;
  header.task = "shares";
  header.split = file.stem().string();
  header.vocabulary = 16;
  header.classes = kind == data::LabelKind::target ? 0 : 10;
  header.label_kind = kind;
  header.padded_length = 48;
  data::RecordWriter writer(file, header);
  for (std::int64_t r = 0; r < records; ++r) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < 12; ++i) ids.push_back((r * 7 + i * i * 5) % 12 < r % 13 ? 1 : 2);
    const auto ones = static_cast<float>(std::count(ids.begin(), ids.end(), 1));
    const std::span<const std::int32_t> sequence(ids);
    if (kind == data::LabelKind::target)
      writer.append(std::span(&sequence, 1), ones / 12);
    else
      writer.append(std::span(&sequence, 1), std::int32_t{0});
  }
  writer.finish();
}

/// A regression on what write_numbers() wrote for the three splits in `folder`.
inline Task number_task(const std::filesystem::path& folder) {
  Task task;
  task.interface.vocabulary = 32;
  task.interface.padded_length = 48;
  task.interface.outputs = 1;
  task.interface.is_regression = true;
  task.train = folder / "train.records";
  task.dev = folder / "dev.records";
  task.test = folder / "test.records";
  task.max_length = 40;
  return task;
}

}  // namespace tern::test
