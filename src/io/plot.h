// Line charts as self-contained SVG files, which browsers and papers take as they are.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tern::io {

/// One line. Points are joined in their order.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

struct Plot {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<Series> series;
};

/// The chart with axes, grid, legend, and lines that differ in colour, dashes and marks. Logarithmic axes are
/// marked at powers of two where all values are such, else at decades and, if those are few, at 2 and 5 between
/// them; linear axes of values >= 0 begin at 0. A point that has no place (not finite, not positive on a
/// logarithmic axis, or beyond 1e100) is left out and interrupts its line. Texts are UTF-8.
std::string svg(const Plot& plot);

}  // namespace tern::io
