// What commands print on stdout.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace tern::app {

using Row = std::vector<std::string>;

/// Rows of equal length as aligned columns, two blanks apart. Columns whose cells below the first row are all
/// numbers are aligned to the right.
std::string table_text(const std::vector<Row>& rows);

void print(std::string_view text);
/// Indented, with a line end.
void print_json(const io::Json& value);

/// 209802 -> "209,802".
std::string thousands_text(std::int64_t number);
/// "512 B", "3.4 KiB", "1.2 GiB".
std::string bytes_text(double bytes);
/// 0.1234 -> "12.34 %".
std::string percent_text(double share);
/// Significant digits with an SI letter: 1.23e9 -> "1.23 G".
std::string quantity_text(double number);
/// printf's %.<digits>f.
std::string fixed_text(double number, int digits);

}  // namespace tern::app
