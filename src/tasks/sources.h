// Published data as users have them: folders, archives and files, several together.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/source_files.h"

namespace tern::tasks {

struct Sources {
  std::vector<std::filesystem::path> paths;
  io::NameFilter wanted;
  std::string expected;  ///< the names that are wanted, for messages
};

std::vector<io::SourceFingerprint> fingerprints_of(const Sources& sources);

/// Calls `visit` with each wanted file, in the order of the sources; with `part`, only with those of them that
/// it chooses, for readers in several passes. Error(bad_data) naming the first files found where a source holds
/// none that is wanted; errors of io::SourceFiles.
void for_each_file(const Sources& sources, const std::function<void(io::SourceFiles&)>& visit,
                   const io::NameFilter& part = {});

/// "set/a/b.txt" -> "b.txt".
std::string_view base_name(std::string_view name);
/// The same, taken off `name` with the "/" before it.
std::string_view pop_part(std::string_view& name);

/// The fields between tabs; the last holds all that follows `most` - 1 tabs.
std::vector<std::string_view> tab_fields(std::string_view line, std::size_t most);

/// Warns where a split lacks records of the published set.
void warn_if_incomplete(std::string_view split, std::int64_t records, std::int64_t published);

}  // namespace tern::tasks
