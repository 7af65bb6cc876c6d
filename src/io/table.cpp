#include "io/table.h"

#include <algorithm>
#include <utility>

#include "base/parsed_number.h"
#include "io/json.h"
#include "io/source_files.h"
#include "tern/error.h"

namespace tern::io {
namespace {

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";

/// The number of a column, or nothing for a name.
std::optional<std::size_t> column_number(std::string_view text) { return parsed_number<std::size_t>(text); }

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  for (std::size_t begin = 0;;) {
    const std::size_t tab = line.find('\t', begin);
    fields.push_back(line.substr(begin, tab - begin));
    if (tab == line.npos) return fields;
    begin = tab + 1;
  }
}

/// What a message shows of a text.
std::string shown(std::string_view text) {
  constexpr std::size_t most = 60;
  return dump_json(utf8_text(text.substr(0, most))) + (text.size() <= most ? "" : "...");
}

}  // namespace

LineSource stream_lines(std::FILE* stream, std::string name) {
  return [stream, name = std::move(name), number = std::int64_t{0}](std::string& line) mutable {
    line.clear();
    ++number;
    int byte = std::getc(stream);
    const bool is_read = byte != EOF;
    for (; byte != EOF && byte != '\n'; byte = getc_unlocked(stream)) {
      if (line.size() == static_cast<std::size_t>(line_cap))
        throw_error(ExitCode::bad_data, "{}:{}: a line must have at most {} bytes, got more", name, number,
                    line_cap);
      line.push_back(static_cast<char>(byte));
    }
    if (std::ferror(stream) != 0) throw_error(ExitCode::io_error, "{}: cannot be read", name);
    drop_carriage_return(line);
    return is_read;
  };
}

LineSource file_lines(const std::filesystem::path& file) {
  if (std::filesystem::is_directory(file))
    throw_error(ExitCode::bad_data, "{}: must be a file, got a folder; name one of its files", file);
  const auto files = std::make_shared<SourceFiles>(file);
  return [files, file, is_open = files->next()](std::string& line) {
    if (!is_open) return false;
    if (files->read_line(line, line_cap)) return true;
    if (files->next())
      throw_error(ExitCode::bad_data,
                  "{}: must hold one file, got an archive of several; unpack it and name one", file);
    return false;
  };
}

TableFormat table_format_of(const std::filesystem::path& file) {
  const std::string extension = std::filesystem::path(without_compression(file.filename())).extension();
  const bool is_json = extension == ".jsonl" || extension == ".ndjson" || extension == ".json";
  return is_json ? TableFormat::json_lines : TableFormat::tsv;
}

bool has_header_line(const TableOptions& options) {
  return options.format == TableFormat::tsv &&
         (options.has_header || std::any_of(options.columns.begin(), options.columns.end(),
                                            [](const auto& column) { return !column_number(column); }));
}

TableReader::TableReader(std::string name, LineSource lines, TableOptions options)
    : name_(std::move(name)), lines_(std::move(lines)), options_(std::move(options)) {
  require(!options_.columns.empty(), "{}: at least one column must be wanted", name_);
  if (options_.format == TableFormat::json_lines) return;
  for (const std::string& column : options_.columns) {
    const std::optional<std::size_t> number = column_number(column);
    require(number != 0, "{}: columns are counted from 1, got 0", name_);
    indices_.push_back(number.value_or(0) - 1);
  }
  if (!has_header_line(options_)) return;
  if (!read_line())
    throw_error(ExitCode::bad_data, "{}: must begin with a header line, got an empty file", name_);
  read_header(text_);
}

bool TableReader::read_line() {
  if (!lines_(text_)) return false;
  ++line_;
  if (line_ > 1) return true;
  if (text_.starts_with(byte_order_mark)) text_.erase(0, byte_order_mark.size());
  if (text_.starts_with("\xFF\xFE") || text_.starts_with("\xFE\xFF"))
    throw_error(ExitCode::bad_data,
                "{}: must be UTF-8, got UTF-16; convert it, as with: iconv -f UTF-16 -t UTF-8", name_);
  return true;
}

void TableReader::read_header(std::string_view header) {
  const std::vector<std::string_view> names = fields_of(header);
  column_count_ = names.size();
  for (std::size_t c = 0; c < indices_.size(); ++c) {
    const std::string& wanted = options_.columns[c];
    if (column_number(wanted)) continue;
    const auto found = std::find(names.begin(), names.end(), wanted);
    if (found == names.end())
      throw_error(ExitCode::bad_data,
                  "{}: the header must name a column \"{}\", got {}; give the names of the columns that are "
                  "meant, or their numbers from 1 if the file has no header",
                  place(), wanted, shown(header));
    if (std::find(found + 1, names.end(), wanted) != names.end())
      throw_error(ExitCode::bad_data,
                  "{}: the header must name each column once, got \"{}\" twice; give its number", place(),
                  wanted);
    indices_[c] = static_cast<std::size_t>(found - names.begin());
  }
}

std::optional<TableRow> TableReader::next() {
  while (read_line()) {
    const bool is_json = options_.format == TableFormat::json_lines;
    if (text_.empty() && (is_json || is_wide())) continue;
    if (is_json) return json_row();
    if (column_count_ == 0) column_count_ = fields_of(text_).size();
    return tsv_row();
  }
  return {};
}

bool TableReader::is_wide() const {
  return column_count_ > 1 || *std::max_element(indices_.begin(), indices_.end()) > 0;
}

std::string TableReader::place() const { return format_text("{}:{}", name_, line_); }

TableRow TableReader::tsv_row() const {
  const std::vector<std::string_view> fields = fields_of(text_);
  if (fields.size() != column_count_)
    return {{},
            format_text("a line must have {} columns as the first one has, got {}: {}", column_count_,
                        fields.size(), shown(text_))};
  TableRow row;
  for (const std::size_t index : indices_) {
    if (index >= fields.size())
      return {{},
              format_text("column {} is wanted, got a line of {}: {}", index + 1, fields.size(), shown(text_))};
    row.fields.emplace_back(fields[index]);
  }
  return row;
}

TableRow TableReader::json_row() const {
  Json object;
  try {
    object = parse_json(text_, "line", static_cast<std::size_t>(line_cap));
  } catch (const Error& error) {
    return {{}, utf8_text(error.what())};  // it may repeat bytes that are not UTF-8
  }
  if (!object.is_object()) return {{}, format_text("a line must be a JSON object, got {}", shown(text_))};
  TableRow row;
  for (const std::string& column : options_.columns) {
    const auto found = object.find(column);
    if (found == object.end())
      return {{}, format_text("the object must have a key \"{}\", got {}", column, shown(text_))};
    if (found->is_structured() || found->is_null())
      return {{},
              format_text("\"{}\" must be a text, a number, true or false, got {}", column,
                          shown(dump_json(*found)))};
    row.fields.push_back(found->is_string() ? found->get<std::string>() : dump_json(*found));
  }
  return row;
}

}  // namespace tern::io
