#include "tasks/pathfinder_source.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "base/parsed_number.h"
#include "data/loader.h"
#include "io/png.h"
#include "tern/error.h"

namespace tern::tasks::pathfinder {
namespace {

constexpr std::int64_t line_cap = 1 << 16;
constexpr std::size_t fields_read = 6;
constexpr std::size_t label_field = 3, contour_field = 5;

/// "x/metadata/7.npy" -> "x".
std::optional<std::string> set_of_metadata(std::string_view path) {
  const std::string_view file = pop_part(path), folder = pop_part(path);
  if (folder != "metadata" || !file.ends_with(".npy")) return std::nullopt;
  return std::string(path);
}

/// "x/note.txt" -> "x".
std::optional<std::string> set_of_note(std::string_view path) {
  if (pop_part(path) != note_file) return std::nullopt;
  return std::string(path);
}

std::string path_in(const std::string& set, std::string_view name) {
  return set.empty() ? std::string(name) : format_text("{}/{}", set, name);
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (std::size_t at = line.find_first_not_of(' '); at != line.npos; at = line.find_first_not_of(' ', at)) {
    const std::size_t end = std::min(line.find(' ', at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  return words;
}

}  // namespace

ReleasedImages::ReleasedImages(std::vector<std::filesystem::path> paths, Kind kind, std::uint64_t seed)
    : paths_(std::move(paths)), kind_(kind) {
  read_metadata();
  header_ = header_of(kind, seed, note_.empty() ? io::Json::object() : io::Json{{"note", note_}});
  cut();
}

bool ReleasedImages::describes(std::string_view name) const {
  return set_of_metadata(name) == set_ || set_of_note(name) == set_;
}

Sources ReleasedImages::files() const {
  return {paths_,
          [this](std::string_view name) {
            return describes(name) || (name.ends_with(".png") && name.starts_with(path_in(set_, "")));
          },
          "files of " + (set_.empty() ? "the set" : set_)};
}

std::vector<io::SourceFingerprint> ReleasedImages::sources() const { return fingerprints_of(files()); }

bool ReleasedImages::is_allowed(std::string_view set) const {
  const std::string_view folder = pop_part(set), above = pop_part(set);
  constexpr std::string_view sized = "pathfinder";
  const auto size = above.starts_with(sized) ? parsed_number<int>(above.substr(sized.size())) : std::nullopt;
  if (size && *size != kind_.size) return false;
  if (folder == released_folder(kind_.difficulty)) return true;
  return std::none_of(std::begin(difficulties), std::end(difficulties),
                      [&](Difficulty other) { return folder == released_folder(other); });
}

void ReleasedImages::read_metadata() {
  std::set<std::string> allowed, refused;
  std::map<std::string, std::string> notes;
  const auto describes = [](std::string_view name) {
    return set_of_metadata(name).has_value() || set_of_note(name).has_value();
  };
  const Sources any{paths_, [&](std::string_view name) { return describes(name) || name.ends_with(".png"); },
                    "metadata/*.npy or images"};
  const auto read = [&](io::SourceFiles& file) {
    if (const auto noted = set_of_note(file.name())) {
      file.read_line(notes[*noted], line_cap);
      return;
    }
    const std::string set = *set_of_metadata(file.name());
    (is_allowed(set) ? allowed : refused).insert(set);
    if (allowed.size() > 1 || !allowed.contains(set)) return;
    set_ = set;
    read_lines(file);
  };
  for_each_file(any, read, describes);
  note_ = io::utf8_text(notes[set_]);
  if (allowed.size() == 1) return;
  refused.merge(allowed);
  throw_error(
      ExitCode::bad_data,
      "{}: must hold the metadata of one set of images for size {} and difficulty {} (pathfinder{}/{}), "
      "got {}; choose --size and --difficulty of a set that is there, or name the set's folder",
      to_text(paths_), kind_.size, name(kind_.difficulty), kind_.size, released_folder(kind_.difficulty),
      refused.empty() ? "none" : to_text(std::vector<std::string>(refused.begin(), refused.end())));
}

void ReleasedImages::read_lines(io::SourceFiles& file) {
  std::string line;
  while (file.read_line(line, line_cap)) {
    if (line.starts_with("\x93NUMPY"))
      throw_error(ExitCode::bad_data,
                  "{}: metadata must be lines of text, as Long Range Arena released them, got a NumPy array; "
                  "rewrite it as text",
                  file.where());
    if (!line.empty()) read_line(line, file.where());
  }
}

void ReleasedImages::read_line(const std::string& line, std::string where) {
  const std::vector<std::string_view> words = words_of(line);
  const auto number = [&](std::size_t field) {
    return field < words.size() ? parsed_number<int>(words[field]) : std::nullopt;
  };
  const std::optional<int> label = number(label_field), paddles = number(contour_field);
  if (words.size() < fields_read || !label || *label < 0 || *label >= classes || !paddles) {
    faults_.push_back(
        {"", std::move(where), "must be: folder, file, number, label 0 or 1, continuity, paddles ..."});
    return;
  }
  const int expected = parameters_of(kind_.size, kind_.difficulty).contour_length;
  if (*paddles != expected)
    throw_error(ExitCode::bad_data,
                "{}: contours must have {} paddles for difficulty {}, got {}; set --difficulty", where,
                expected, name(kind_.difficulty), *paddles);
  const std::string image = path_in(set_, format_text("{}/{}", words[0], words[1]));
  if (!items_.try_emplace(image, Item{*label, ""}).second)
    faults_.push_back({"", std::move(where), format_text("names {} again", image)});
}

void ReleasedImages::cut() {
  if (items_.empty())
    throw_error(ExitCode::bad_data, "{}: the metadata must name images, got none; name a complete copy",
                to_text(paths_));
  std::vector<std::string> names;
  for (const auto& [name, item] : items_) names.push_back(name);
  std::sort(names.begin(), names.end());
  const std::vector<std::int64_t> order = data::shuffled_order(std::ssize(names), header_.seed, order_epoch);
  for (const std::string_view split : split_names) {
    const Range range = range_of(split, std::ssize(order));
    for (std::int64_t i = range.begin; i < range.end; ++i)
      items_.at(names[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]).split = split;
  }
}

void ReleasedImages::append(io::SourceFiles& file, Preparation& preparation) {
  const auto found = items_.find(file.name());
  if (found == items_.end())
    return preparation.skip_known({"", file.where(), "no line of the metadata names it"});
  const Item item = found->second;
  items_.erase(found);
  if (!preparation.wants(item.split)) return;
  io::GreyImage image;
  try {
    const std::string bytes = file.read();
    if (bytes.empty()) return preparation.skip_known({std::string(item.split), file.where(), "an empty file"});
    image = io::read_png(std::as_bytes(std::span(bytes)), file.where());
    if (image.width != kind_.size || image.height != kind_.size)
      throw_error(ExitCode::bad_data, "must have {} x {} pixels, got {} x {}", kind_.size, kind_.size,
                  image.width, image.height);
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_data) throw;
    return preparation.skip({std::string(item.split), file.where(), error.what()});
  }
  preparation.writer(item.split).append(std::span<const std::uint8_t>(image.pixels), item.label);
}

void ReleasedImages::write(Preparation& preparation) {
  for (const SkippedItem& fault : faults_) preparation.skip(fault);
  for_each_file(
      files(), [&](io::SourceFiles& file) { append(file, preparation); },
      [this](std::string_view name) { return !describes(name); });
  std::vector<std::pair<std::string, Item>> missing(items_.begin(), items_.end());
  std::sort(missing.begin(), missing.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [name, item] : missing)
    if (preparation.wants(item.split))
      preparation.skip({std::string(item.split), name, "the metadata name it, but it is missing"});
  preparation.complete();
}

}  // namespace tern::tasks::pathfinder
