// How far a computed value may lie from its reference, and the only comparison that tests use.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>

#include "tern/device.h"
#include "tern/error.h"

namespace tern::test {

/// Largest error relative to the largest expected size, for sums of `reduction_length` terms whose rounding
/// errors add up like a random walk: 16 units in the last place for each square root of a term. Data in
/// bfloat16 are summed in float32: 4 units, whatever the length.
inline double tolerance(DType dtype, std::int64_t reduction_length = 1) {
  if (dtype == DType::bfloat16) return 4 * 0x1p-8;
  const double unit =
      dtype == DType::float64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  return 16 * unit * std::sqrt(static_cast<double>(std::max<std::int64_t>(reduction_length, 1)));
}

/// Empty where each |actual - expected| is at most `relative` times the largest |expected|; else what differs.
/// Ranges that are empty or of different length, values that are not finite and a tolerance that allows
/// anything are differences too. Where everything expected is 0, actual must be 0.
inline std::string difference(std::span<const double> actual, std::span<const double> expected,
                              double relative) {
  if (actual.size() != expected.size())
    return format_text("has {} values, expected {}", actual.size(), expected.size());
  if (expected.empty()) return "the comparison is empty";
  if (!(relative >= 0 && relative < 0.5))
    return format_text("a relative tolerance of {} compares nothing", relative);
  double size = 0;
  for (const double value : expected) {
    if (!std::isfinite(value)) return "the reference is not finite";
    size = std::max(size, std::abs(value));
  }
  std::size_t worst = 0;
  double largest = -1;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i])) return format_text("entry {} is not finite: {}", i, actual[i]);
    if (const double error = std::abs(actual[i] - expected[i]); error > largest) largest = error, worst = i;
  }
  if (largest <= relative * size) return "";
  return format_text("entry {} is {}, expected {}: error {} of the largest size, allowed {}", worst,
                     actual[worst], expected[worst], largest / size, relative);
}

}  // namespace tern::test
