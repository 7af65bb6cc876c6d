#include "tasks/sources.h"

#include <algorithm>

#include "tern/error.h"
#include "tern/logging.h"

namespace tern::tasks {
namespace {

constexpr std::size_t names_shown = 5;

}  // namespace

std::vector<io::SourceFingerprint> fingerprints_of(const Sources& sources) {
  std::vector<io::SourceFingerprint> prints;
  for (const std::filesystem::path& path : sources.paths)
    prints.push_back(io::fingerprint_of(path, sources.wanted));
  return prints;
}

void for_each_file(const Sources& sources, const std::function<void(io::SourceFiles&)>& visit,
                   const io::NameFilter& part) {
  for (const std::filesystem::path& path : sources.paths) {
    std::vector<std::string> others;
    bool is_any = false;
    io::SourceFiles files(path, [&](std::string_view name) {
      if (sources.wanted(name)) {
        is_any = true;
        return !part || part(name);
      }
      if (others.size() < names_shown) others.emplace_back(name);
      return false;
    });
    while (files.next()) visit(files);
    if (!is_any)
      throw_error(ExitCode::bad_data, "{}: must hold {}, got {}; name the folder, archive or file that does",
                  path, sources.expected, others.empty() ? "nothing" : to_text(others));
  }
}

std::string_view base_name(std::string_view name) {
  const std::size_t slash = name.rfind('/');
  return slash == name.npos ? name : name.substr(slash + 1);
}

std::string_view pop_part(std::string_view& name) {
  const std::string_view part = base_name(name);
  name.remove_suffix(std::min(name.size(), part.size() + 1));
  return part;
}

std::vector<std::string_view> tab_fields(std::string_view line, std::size_t most) {
  std::vector<std::string_view> fields;
  while (fields.size() + 1 < most) {
    const std::size_t tab = line.find('\t');
    if (tab == line.npos) break;
    fields.push_back(line.substr(0, tab));
    line.remove_prefix(tab + 1);
  }
  fields.push_back(line);
  return fields;
}

void warn_if_incomplete(std::string_view split, std::int64_t records, std::int64_t published) {
  if (records != published)
    logging::warning("data", "{} holds {} of the {} published records", split, records, published);
}

}  // namespace tern::tasks
