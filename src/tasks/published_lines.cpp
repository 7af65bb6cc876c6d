#include "tasks/published_lines.h"

#include <algorithm>
#include <set>
#include <string>

#include "tern/error.h"

namespace tern::tasks {
namespace {

void write_split(io::SourceFiles& source, const PublishedFile& file, int header_lines, const AppendLine& append,
                 Preparation& preparation) {
  std::string line;
  std::int64_t records = 0;
  while (source.read_line(line)) {
    if (source.line() <= header_lines) continue;
    try {
      append(preparation.writer(file.split), line);
      ++records;
    } catch (const Error& error) {
      if (error.code() != ExitCode::bad_data) throw;
      preparation.skip({std::string(file.split), source.where(), error.what()});
    }
  }
  if (records == 0) throw_error(ExitCode::bad_data, "{}: must hold records, got none", source.where());
  warn_if_incomplete(file.split, records, file.records);
  preparation.finish(file.split);
}

}  // namespace

Sources published_sources(std::vector<std::filesystem::path> paths, std::span<const PublishedFile> files,
                          std::string_view expected) {
  return {std::move(paths),
          [files](std::string_view name) {
            return std::any_of(files.begin(), files.end(),
                               [&](const PublishedFile& file) { return base_name(name) == file.name; });
          },
          std::string(expected)};
}

void prepare_lines(const Sources& sources, std::span<const PublishedFile> files, int header_lines,
                   const AppendLine& append, Preparation& preparation) {
  std::set<std::string_view> seen;
  for_each_file(sources, [&](io::SourceFiles& source) {
    for (const PublishedFile& file : files) {
      if (base_name(source.name()) != file.name) continue;
      if (!seen.insert(file.name).second)
        throw_error(ExitCode::bad_data, "{}: the file comes twice; name each source once", source.where());
      if (preparation.wants(file.split)) write_split(source, file, header_lines, append, preparation);
    }
  });
  for (const PublishedFile& file : files)
    if (!seen.contains(file.name))
      throw_error(ExitCode::bad_data, "{}: the file {} is not in it; name further sources",
                  to_text(sources.paths), file.name);
  preparation.complete();
}

}  // namespace tern::tasks
