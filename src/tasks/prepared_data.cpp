#include "tasks/prepared_data.h"

#include <algorithm>
#include <optional>

#include "io/atomic_file.h"
#include "tern/error.h"
#include "tern/logging.h"

namespace tern::tasks {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t manifest_cap = std::int64_t{1} << 24;

fs::path manifest_file(const fs::path& folder) { return folder / "manifest.json"; }

io::Json to_json(const io::SourceFingerprint& source) {
  return {{"name", io::utf8_text(source.name)},
          {"files", source.files},
          {"bytes", source.bytes},
          {"xxh3", io::to_hex(source.hash)}};
}

/// The options with the sources behind them.
std::string with_sources(const std::string& options, const std::vector<io::SourceFingerprint>& sources) {
  if (sources.empty()) return options;
  io::Json json = io::parse_json(options, "options of a preparation");
  io::Json list = io::Json::array();
  for (const io::SourceFingerprint& source : sources) list.push_back(to_json(source));
  json["sources"] = list;
  return io::dump_json(json);
}

io::Json to_json(const fs::path& file, const SplitStatistics& x) {
  return {{"file", file.filename().string()},
          {"bytes", fs::file_size(file)},
          {"xxh3", io::to_hex(io::hash_of_file(file))},
          {"records", x.records},
          {"shortest", x.shortest},
          {"mean_length", x.mean_length},
          {"longest", x.longest},
          {"labels", x.labels}};
}

struct Manifest {
  std::size_t splits = 0;
  std::vector<SkippedItem> skipped;
};

/// The manifest in a folder, if there is one. What was left out stands nowhere else, so a damaged one is not
/// written anew unasked.
std::optional<Manifest> read_manifest(const fs::path& folder) {
  const fs::path path = manifest_file(folder);
  if (!fs::exists(path)) return {};
  const std::string where = path.string();
  try {
    const io::Json json = io::parse_json(io::read_file(path, manifest_cap), where);
    Manifest manifest{io::json_member(json, "splits", where).size(), {}};
    for (const io::Json& item : io::json_member(json, "skipped", where))
      manifest.skipped.push_back({io::json_string(item, "split", where), io::json_string(item, "name", where),
                                  io::json_string(item, "reason", where)});
    return manifest;
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_data) throw;
    throw_error(ExitCode::bad_data, "{}; make the data again with --force", error.what());
  }
}

}  // namespace

SplitStatistics statistics_of(const std::vector<fs::path>& record_files) {
  SplitStatistics all;
  std::int64_t sequences = 0, tokens = 0;
  for (const fs::path& path : record_files) {
    const data::RecordFile file(path);
    const data::RecordHeader& header = file.header();
    all.labels.resize(std::max(all.labels.size(), static_cast<std::size_t>(header.classes)));
    all.records += file.count();
    tokens += header.tokens;
    all.longest = std::max(all.longest, header.longest);
    for (std::int64_t record = 0; record < file.count(); ++record) {
      if (header.label_kind == data::LabelKind::classes)
        ++all.labels[static_cast<std::size_t>(file.label(record))];
      for (int which = 0; which < header.sequences_per_record; ++which, ++sequences) {
        const std::int64_t length = file.tokens(record, which).size();
        all.shortest = sequences == 0 ? length : std::min(all.shortest, length);
      }
    }
  }
  if (sequences == 0) return all;
  all.mean_length = static_cast<double>(tokens) / static_cast<double>(sequences);
  if (!all.labels.empty()) {
    const std::int64_t most = *std::max_element(all.labels.begin(), all.labels.end());
    all.majority_share = static_cast<double>(most) / static_cast<double>(all.records);
  }
  return all;
}

std::string data_note(const data::RecordHeader& header) {
  constexpr std::string_view where = "options of a record file";
  const io::Json options = io::parse_json(header.options, where);
  return options.contains("note") ? io::json_string(options, "note", where) : "";
}

Preparation::Preparation(PreparationOptions options, data::RecordHeader header,
                         const std::vector<io::SourceFingerprint>& sources)
    : options_(std::move(options)), header_(std::move(header)) {
  header_.options = with_sources(header_.options, sources);
  for (const std::string_view split : split_names)
    if (options_.force || !is_there(split)) missing_.emplace_back(split);
  if (is_complete() && is_manifest_whole()) return;
  io::make_directory(options_.folder);  // before the work: a folder that cannot be made is told at once
  lock_ = std::make_unique<io::FolderLock>(options_.folder);
  io::remove_temporaries(options_.folder);
  keep_skipped();
  if (is_complete()) write_manifest();
}

/// False where a call was killed before its last step.
bool Preparation::is_manifest_whole() const {
  const std::optional<Manifest> manifest = read_manifest(options_.folder);
  return manifest && manifest->splits == split_names.size();
}

/// Whether the split stands in the folder, made in this way and undamaged.
bool Preparation::is_there(std::string_view split) const {
  const fs::path path = split_file(options_.folder, split);
  if (!fs::exists(path)) return false;
  const data::RecordFile file(path);
  const data::RecordHeader& found = file.header();
  if (found.task != header_.task || found.seed != header_.seed || found.options != header_.options)
    throw_error(ExitCode::cannot_create,
                "{}: holds {} data made with seed {} and options {}; choose another --out, or --force to "
                "replace them",
                path, found.task, found.seed, found.options);
  try {
    file.verify();
  } catch (const Error& error) {
    logging::warning("data", "{}", error.what());
    return false;
  }
  return true;
}

/// What the manifest of an earlier, unfinished call says of the splits that are kept.
void Preparation::keep_skipped() {
  if (missing_.size() == split_names.size()) return;
  const std::optional<Manifest> manifest = read_manifest(options_.folder);
  if (!manifest) return;
  for (const SkippedItem& item : manifest->skipped)
    if (!item.split.empty() && !wants(item.split)) skipped_.push_back(item);
}

bool Preparation::wants(std::string_view split) const {
  return std::find(missing_.begin(), missing_.end(), split) != missing_.end();
}

data::RecordWriter& Preparation::writer(std::string_view split) {
  require(wants(split), "{}: the split {} is not to be written", options_.folder, split);
  const auto found = writers_.find(split);
  if (found != writers_.end()) return found->second;
  header_.split = split;
  return writers_.try_emplace(std::string(split), split_file(options_.folder, split), header_).first->second;
}

void Preparation::finish(std::string_view split) {
  writer(split);
  if (!skipped_.empty()) write_manifest();  // first, so that a call that goes on knows what this split lacks
  writers_.find(split)->second.finish();
  writers_.erase(writers_.find(split));
  missing_.erase(std::find(missing_.begin(), missing_.end(), split));
}

void Preparation::skip(SkippedItem item) {
  if (++bad_ > options_.allowed_bad)
    throw_error(ExitCode::bad_data, "{}: {}; {}", item.name, item.reason,
                options_.allowed_bad == 0 ? "repair the data, or leave such items out with --allow-bad NUMBER"
                                          : "more than --allow-bad items are damaged");
  skip_known(std::move(item));
}

void Preparation::skip_known(SkippedItem item) {
  const auto is_known = [&](const SkippedItem& other) {
    return other.split == item.split && other.name == item.name;
  };
  if (std::any_of(skipped_.begin(), skipped_.end(), is_known)) return;  // told by an earlier, unfinished call
  logging::warning("data", "left out: {}: {}", item.name, item.reason);
  skipped_.push_back(std::move(item));
}

void Preparation::complete() {
  while (!missing_.empty()) finish(std::string(missing_.front()));
  write_manifest();
}

void Preparation::write_manifest() const {
  io::Json splits = io::Json::object(), skipped = io::Json::array();
  std::int64_t records = 0;
  for (const std::string_view split : split_names) {
    if (wants(split)) continue;
    const fs::path file = split_file(options_.folder, split);
    const SplitStatistics statistics = statistics_of({file});
    splits[std::string(split)] = to_json(file, statistics);
    records += statistics.records;
  }
  for (const SkippedItem& item : skipped_)
    skipped.push_back(
        {{"split", item.split}, {"name", io::utf8_text(item.name)}, {"reason", io::utf8_text(item.reason)}});
  const io::Json manifest{{"task", header_.task},
                          {"seed", header_.seed},
                          {"options", io::parse_json(header_.options, "options of a preparation")},
                          {"records", records},
                          {"splits", splits},
                          {"skipped_count", skipped_.size()},
                          {"skipped", skipped}};
  io::write_file(manifest_file(options_.folder), io::dump_json(manifest, 2) + "\n");
}

}  // namespace tern::tasks
