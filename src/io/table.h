// The tables that users have: tab-separated values, with or without a header line, and JSON Lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tern::io {

/// Longest line of a table.
inline constexpr std::int64_t line_cap = std::int64_t{1} << 26;

/// Puts the next line, without its LF or CR LF, into the text; false after the last. A last line may lack it.
/// Throws where reading cannot go on, as behind a line longer than line_cap (bad_data, naming it).
using LineSource = std::function<bool(std::string&)>;

/// The lines of a stream, which must outlive the source; `name` stands in messages.
LineSource stream_lines(std::FILE* stream, std::string name);
/// The lines of a plain or compressed file (io/source_files.h). Error(missing_input) if it is not there,
/// Error(bad_data) for a folder and for an archive that holds several files.
LineSource file_lines(const std::filesystem::path& file);

enum class TableFormat : std::uint8_t { tsv, json_lines };
/// By the extension, behind which .gz, .xz and the like do not count: JSON Lines for .jsonl, .ndjson and .json.
TableFormat table_format_of(const std::filesystem::path& file);

struct TableOptions {
  TableFormat format = TableFormat::tsv;
  /// What a row consists of, in this order: keys of JSON objects; names in the header line of a TSV, or numbers
  /// of its columns from 1.
  std::vector<std::string> columns;
  bool has_header = false;  ///< skips the first line of a TSV also where all columns are numbers
};

/// Whether the options make the first line of a TSV its header: they say so or name a column.
bool has_header_line(const TableOptions& options);

struct TableRow {
  std::vector<std::string> fields;  ///< in the order of TableOptions::columns
  std::string fault;  ///< "file:line: what is wrong"; empty for a sound row, else there are no fields
};

/// Reads a table row by row.
///
/// TSV: fields stand between single tabs and mean themselves, quotes and backslashes included; a field may be
/// empty; all lines have the columns of the first. JSON Lines: an object on each line, whose other keys are
/// ignored; texts give themselves, numbers, true and false their JSON text. In both a byte order mark at the
/// start and a CR before LF are dropped, a NUL byte is a byte like any other, and an empty line is no row
/// unless the TSV has but one column.
class TableReader {
 public:
  /// `name` stands in messages. Reads the header line. Error(bad_data) naming the line for a header that is
  /// absent, lacks a column or has it twice, and for UTF-16. Error(failed) without columns.
  TableReader(std::string name, LineSource lines, TableOptions options);

  /// The next row, sound or malformed, or nothing after the last. Throws what the source throws.
  std::optional<TableRow> next();
  /// "file:line" of the line that row came from.
  std::string place() const;

 private:
  bool read_line();
  /// Whether the TSV is known to have more than one column.
  bool is_wide() const;
  void read_header(std::string_view header);
  TableRow tsv_row() const;
  TableRow json_row() const;

  std::string name_;
  LineSource lines_;
  TableOptions options_;
  std::vector<std::size_t> indices_;  ///< of the wanted columns of a TSV
  std::size_t column_count_ = 0;      ///< of a TSV; 0 until its first line
  std::string text_;                  ///< of the present line
  std::int64_t line_ = 0;
};

}  // namespace tern::io
