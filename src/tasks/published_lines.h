// Published sets that are one file of lines for each split.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "tasks/prepared_data.h"
#include "tasks/sources.h"

namespace tern::tasks {

struct PublishedFile {
  std::string_view split, name;
  std::int64_t records;  ///< of the published set
};

/// The sources' files of these names, in whatever folder; `expected` as in Sources.
Sources published_sources(std::vector<std::filesystem::path> paths, std::span<const PublishedFile> files,
                          std::string_view expected);

/// Adds a line to the split's records. Error(bad_data) saying why the line is no record.
using AppendLine = std::function<void(data::RecordWriter& writer, std::string_view line)>;

/// Writes each wanted split from its file, behind `header_lines` lines, in the order of the lines; those that
/// are no records are damaged items. Error(bad_data) where a file is missing, comes twice or has no records.
void prepare_lines(const Sources& sources, std::span<const PublishedFile> files, int header_lines,
                   const AppendLine& append, Preparation& preparation);

}  // namespace tern::tasks
