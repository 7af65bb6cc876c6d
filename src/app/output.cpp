#include "app/output.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "tern/error.h"

namespace tern::app {
namespace {

bool is_number(const std::string& cell) {
  return !cell.empty() && cell.find_first_of("0123456789") <= 1 && cell != "-";
}

/// Divides by `base` until fewer than three digits stand before the point.
std::string scaled_text(double number, double base, const std::array<const char*, 6>& units) {
  std::size_t unit = 0;
  for (; number >= base && unit + 1 < units.size(); ++unit) number /= base;
  return fixed_text(number, unit == 0 && number == std::floor(number) ? 0
                            : number < 10                             ? 2
                                                                      : 1) +
         " " + units[unit];
}

}  // namespace

std::string fixed_text(double number, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, number);
  return text.data();
}

std::string table_text(const std::vector<Row>& rows) {
  if (rows.empty()) return "";
  const std::size_t columns = rows.front().size();
  std::vector<std::size_t> widths(columns, 0);
  std::vector<bool> is_right(columns, rows.size() > 1);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    ensure(rows[r].size() == columns, "table: row {} has {} cells of {}", r, rows[r].size(), columns);
    for (std::size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], rows[r][c].size());
      if (r > 0 && !is_number(rows[r][c])) is_right[c] = false;
    }
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string blanks(widths[c] - row[c].size(), ' ');
      line += (c > 0 ? "  " : "") + (is_right[c] ? blanks + row[c] : row[c] + blanks);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void print_json(const io::Json& value) { print(io::dump_json(value, 2) + "\n"); }

std::string thousands_text(std::int64_t number) {
  std::string text = std::to_string(number);
  const std::size_t first = number < 0 ? 1 : 0;
  for (std::size_t at = text.size(); at > first + 3;) text.insert(at -= 3, ",");
  return text;
}

std::string bytes_text(double bytes) {
  return scaled_text(bytes, 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB"});
}

std::string percent_text(double share) { return fixed_text(100 * share, 2) + " %"; }

std::string quantity_text(double number) { return scaled_text(number, 1000, {"", "k", "M", "G", "T", "P"}); }

}  // namespace tern::app
