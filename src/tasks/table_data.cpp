#include "tasks/table_data.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/parsed_number.h"
#include "data/loader.h"
#include "tasks/bytes.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_classes = 10000, most_name_bytes = 200;

/// The number that a label stands for in a regression.
std::optional<float> target_of(std::string_view label) {
  const std::optional<double> number = parsed_number<double>(label);
  if (!number || !std::isfinite(static_cast<float>(*number))) return {};
  return static_cast<float>(*number);
}

/// Why a text cannot be the name of a class; files of names and of scores have it in one line.
std::string name_fault(std::string_view name) {
  const auto is_control = [](char byte) { return static_cast<unsigned char>(byte) < 32; };
  if (name.empty()) return "a label must not be empty";
  if (name.size() > most_name_bytes)
    return format_text("a label must have at most {} bytes, got {}; is it the right column?", most_name_bytes,
                       name.size());
  if (std::any_of(name.begin(), name.end(), is_control)) return "a label must have no control characters";
  return io::utf8_text(name) == name ? "" : "a label must be UTF-8";
}

void sort_names(std::vector<std::string>& names) {
  const bool are_integers = std::all_of(names.begin(), names.end(), [](const auto& name) {
    return parsed_number<std::int64_t>(name).has_value();
  });
  std::sort(names.begin(), names.end(), [are_integers](const std::string& a, const std::string& b) {
    if (!are_integers) return a < b;
    return std::pair(*parsed_number<std::int64_t>(a), a) < std::pair(*parsed_number<std::int64_t>(b), b);
  });
}

void check(const TableDataOptions& options) {
  require(options.task == "classification" || options.task == "pair" || options.task == "regression",
          "own data: the task must be classification, pair or regression, got {}", options.task);
  const std::size_t fewest = options.task == "pair" ? 2 : 1, most = options.task == "classification" ? 1 : 2;
  require(options.texts.size() >= fewest && options.texts.size() <= most,
          "own data: {} takes {} to {} columns of texts, got {}", options.task, fewest, most,
          options.texts.size());
  require(options.max_length >= 1 && options.max_length <= (1 << 24),
          "own data: max_length must lie in 1 ... 2^24, got {}", options.max_length);
  require(options.held_out > 0 && options.held_out < 0.5, "own data: held_out must lie in (0, 0.5), got {}",
          options.held_out);
  for (std::size_t c = 0; c < options.classes.size(); ++c) {
    const std::string& name = options.classes[c];
    const std::string fault = name_fault(name);
    require(fault.empty(), "own data: class \"{}\": {}", name, fault);
    require(std::find(options.classes.begin(), options.classes.begin() + static_cast<std::ptrdiff_t>(c),
                      name) == options.classes.begin() + static_cast<std::ptrdiff_t>(c),
            "own data: each class must be given once, got \"{}\" twice", name);
  }
}

}  // namespace

TableData::TableData(TableDataOptions options) : options_(std::move(options)) {
  check(options_);
  for (const std::string& name : options_.classes)
    classes_.emplace(name, static_cast<std::int32_t>(classes_.size()));
  read(options_.train, [this](const Record& record) { learn(record); });
  if (records_ == 0 && !first_fault_.empty())
    throw_error(ExitCode::bad_data, "{}; no line of the file is usable", first_fault_);
  if (has_classes()) order_classes();
  draw_splits();
  header_.task = options_.task;
  header_.seed = options_.seed;
  header_.vocabulary = byte_vocabulary;
  header_.token_type = DType::uint16;
  header_.sequences_per_record = static_cast<int>(options_.texts.size());
  header_.label_kind = has_classes() ? data::LabelKind::classes : data::LabelKind::target;
  header_.classes = static_cast<std::int64_t>(classes_.size());
  header_.padded_length = std::clamp<std::int64_t>(longest_, 1, options_.max_length);
  header_.options = options_text();
}

void TableData::read(const fs::path& file, const std::function<void(const Record&)>& use) const {
  io::TableOptions table;
  table.format = options_.format.value_or(io::table_format_of(file));
  table.columns = options_.texts;
  table.columns.push_back(options_.label);
  table.has_header = options_.has_header;
  io::TableReader reader(file.string(), io::file_lines(file), table);
  while (std::optional<io::TableRow> row = reader.next()) {
    Record record;
    record.place = reader.place();
    record.fault = std::move(row->fault);
    if (record.fault.empty()) {
      record.label = std::move(row->fields.back());
      row->fields.pop_back();
      record.texts = std::move(row->fields);
    }
    use(record);
  }
}

/// First pass: takes note of one record of train.
void TableData::learn(const Record& record) {
  const bool learns_classes = has_classes() && options_.classes.empty();
  if (learns_classes && record.fault.empty() && name_fault(record.label).empty() &&
      !classes_.contains(record.label)) {
    classes_.emplace(record.label, 0);
    if (classes_.size() > most_classes)
      throw_error(ExitCode::bad_data,
                  "{}: there must be at most {} classes, got one more here; is \"{}\" the label's column?",
                  record.place, most_classes, options_.label);
  }
  const std::string fault = fault_of(record);
  if (!fault.empty() && first_fault_.empty()) first_fault_ = record.place + ": " + fault;
  if (!fault.empty()) return;
  ++records_;
  for (const std::string& text : record.texts)
    longest_ = std::max(longest_, static_cast<std::int64_t>(text.size()));
}

std::string TableData::first_fault_note() const {
  return first_fault_.empty() ? "" : "; the first that cannot be used is " + first_fault_;
}

void TableData::order_classes() {
  std::vector<std::string>& names = options_.classes;
  if (names.empty()) {
    for (const auto& [name, number] : classes_) names.push_back(name);
    sort_names(names);
    for (std::size_t c = 0; c < names.size(); ++c) classes_[names[c]] = static_cast<std::int32_t>(c);
  }
  if (names.size() < 2)
    throw_error(ExitCode::bad_data,
                "{}: there must be at least two classes, got {}; is \"{}\" the label's column?{}",
                options_.train, names.empty() ? "none" : "only \"" + names.front() + "\"", options_.label,
                first_fault_note());
}

/// Chooses the records of train that are held out for the splits without a file.
void TableData::draw_splits() {
  const std::int64_t held_out =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(options_.held_out * static_cast<double>(records_)));
  const std::int64_t absent = (options_.dev.empty() ? 1 : 0) + (options_.test.empty() ? 1 : 0);
  if (records_ < 1 + absent * held_out)
    throw_error(ExitCode::bad_data, "{}: there must be at least {} usable lines, got {}; add lines{}",
                options_.train, 1 + absent, records_, first_fault_note());
  splits_.assign(static_cast<std::size_t>(records_), 0);
  if (absent == 0) return;
  const std::vector<std::int64_t> order = data::shuffled_order(records_, options_.seed, order_epoch);
  std::size_t next = 0;
  for (std::uint8_t split = 1; split < split_names.size(); ++split) {
    if (!(split == 1 ? options_.dev : options_.test).empty()) continue;
    for (std::int64_t i = 0; i < held_out; ++i) splits_[static_cast<std::size_t>(order[next++])] = split;
  }
}

std::string TableData::options_text() const {
  io::Json given = io::Json::array();
  for (const auto& [name, file] : {std::pair("train", &options_.train), std::pair("dev", &options_.dev),
                                   std::pair("test", &options_.test)})
    if (!file->empty()) given.push_back(name);
  io::Json json{{"texts", options_.texts},
                {"label", options_.label},
                {"has_header", options_.has_header},
                {"max_length", options_.max_length},
                {"given", given}};
  if (given.size() < split_names.size()) json["held_out"] = options_.held_out;
  if (has_classes()) json["class_names"] = options_.classes;
  return io::dump_json(json);
}

std::vector<io::SourceFingerprint> TableData::sources() const {
  std::vector<io::SourceFingerprint> all;
  for (const fs::path* file : {&options_.train, &options_.dev, &options_.test})
    if (!file->empty()) all.push_back(io::fingerprint_of(*file));
  return all;
}

std::string TableData::fault_of(const Record& record) const {
  if (!record.fault.empty()) return record.fault;
  if (!has_classes() && target_of(record.label)) return "";
  if (!has_classes())
    return "a label must be a finite number, got \"" + io::utf8_text(record.label.substr(0, most_name_bytes)) +
           "\"";
  if (classes_.contains(record.label)) return "";
  const std::string fault = name_fault(record.label);
  if (!fault.empty()) return fault;
  return format_text("the label \"{}\" is not among the {} classes", record.label, classes_.size());
}

void TableData::write(Preparation& preparation) {
  for (std::size_t split = 0; split < split_names.size(); ++split) {
    const fs::path& file = split == 0 ? options_.train : split == 1 ? options_.dev : options_.test;
    if (file.empty()) continue;
    std::int64_t usable = 0;
    read(file, [&](const Record& record) {
      const std::string fault = fault_of(record);
      if (!fault.empty() && preparation.wants(split_names[split]))
        preparation.skip({std::string(split_names[split]), record.place, fault});
      if (!fault.empty()) return;
      const bool is_known = split > 0 || usable < records_;
      if (is_known)
        append(preparation, split_names[split > 0 ? split : splits_[static_cast<std::size_t>(usable)]], record);
      ++usable;
    });
    if (usable == 0)
      throw_error(ExitCode::bad_data, "{}: there must be at least one usable line, got none", file);
    if (split == 0 && usable != records_)
      throw_error(ExitCode::bad_data, "{}: must not change while it is read, got {} usable lines, then {}",
                  file, records_, usable);
  }
  preparation.complete();
}

void TableData::append(Preparation& preparation, std::string_view split, const Record& record) {
  if (!preparation.wants(split)) return;
  std::vector<std::vector<std::int32_t>> ids;
  for (const std::string& text : record.texts) {
    ids.push_back(byte_ids(text, header_.padded_length));
    cut_ += ids.back().size() < text.size() ? 1 : 0;
    empty_ += text.empty() ? 1 : 0;
  }
  const std::vector<std::span<const std::int32_t>> sequences(ids.begin(), ids.end());
  if (has_classes()) {
    preparation.writer(split).append(sequences, classes_.at(record.label));
  } else {
    preparation.writer(split).append(sequences, *target_of(record.label));
  }
}

}  // namespace tern::tasks
