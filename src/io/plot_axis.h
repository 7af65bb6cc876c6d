// One axis of a chart: its range and its marks.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace tern::io {

struct Axis {
  bool is_log = false;
  double low = 0, high = 1;   ///< low < high; positive on a logarithmic axis
  std::vector<double> ticks;  ///< rising, inside [low, high]

  /// Whether `value` can be drawn: it is at most 1e100 on either side of 0, and on a logarithmic axis from
  /// 1e-100 on.
  bool has_place_for(double value) const;
  /// 0 at low, 1 at high.
  double place(double value) const;
};

/// The axis that shows all `values`, which must have a place on an axis of that kind; any range for none.
Axis make_axis(bool is_log, std::span<const double> values);

/// Shortest decimal text: "0.01", "4096", "1e-07".
std::string tick_text(double value);

}  // namespace tern::io
