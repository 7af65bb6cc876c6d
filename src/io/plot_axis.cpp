#include "io/plot_axis.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace tern::io {
namespace {

constexpr int most_ticks = 10;
/// Beyond these no step between ticks can be counted on.
constexpr double largest = 1e100, smallest = 1e-100, least_resolution = 1e-9;

bool is_power_of_two(double value) {
  int exponent = 0;
  return std::frexp(value, &exponent) == 0.5;
}

Axis axis_of_powers(double low, double high) {
  int first = std::ilogb(low), last = std::ilogb(high);
  if (first == last) --first, ++last;
  Axis axis{true, std::ldexp(1.0, first), std::ldexp(1.0, last), {}};
  const int step = (last - first) / most_ticks + 1;
  for (int exponent = first; exponent <= last; exponent += step)
    axis.ticks.push_back(std::ldexp(1.0, exponent));
  return axis;
}

/// 1, 2, 5, 10, 20, ...: number `index`, where 0 is 1 and negative ones are below it.
double round_number(int index) {
  const int decade = (index >= 0 ? index : index - 2) / 3;
  constexpr std::array<double, 3> digits{1, 2, 5};
  const double digit = digits[static_cast<std::size_t>(index - 3 * decade)];
  return decade >= 0 ? digit * std::pow(10.0, decade) : digit / std::pow(10.0, -decade);
}

/// Index of the largest round number <= `value`.
int round_index_below(double value) {
  int index = 3 * static_cast<int>(std::floor(std::log10(value))) + 3;
  while (round_number(index) > value) --index;
  return index;
}

Axis axis_of_decades(double low, double high) {
  int first = round_index_below(low), last = round_index_below(high);
  if (round_number(last) < high) ++last;
  if (first == last) --first, ++last;
  Axis axis{true, round_number(first), round_number(last), {}};
  const bool has_digits = last - first < most_ticks;
  const int decades = (last - first) / 3;
  const int step = has_digits ? 1 : 3 * (decades / most_ticks + 1);
  const int start = has_digits ? first : 3 * static_cast<int>(std::ceil(first / 3.0));
  for (int index = start; index <= last; index += step) axis.ticks.push_back(round_number(index));
  return axis;
}

Axis linear_axis(double low, double high) {
  if (low >= 0) low = 0;
  if (high - low < smallest) high = low + 1;
  high = std::max(high, low + least_resolution * std::abs(low));  // else low + step may be low itself
  const double step = round_number(round_index_below((high - low) / 5));
  const double first = std::floor(low / step), last = std::ceil(high / step);
  Axis axis{false, first * step, last * step, {}};
  // whole multiples: adding up the step would leave 0.30000000000000004
  for (double multiple = first; multiple <= last; ++multiple) axis.ticks.push_back(multiple * step);
  return axis;
}

}  // namespace

bool Axis::has_place_for(double value) const {
  return std::abs(value) <= largest && (!is_log || value >= smallest);
}

double Axis::place(double value) const {
  return is_log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
}

Axis make_axis(bool is_log, std::span<const double> values) {
  if (values.empty()) return is_log ? axis_of_decades(1, 10) : linear_axis(0, 1);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (!is_log) return linear_axis(*low, *high);
  const bool has_powers = std::all_of(values.begin(), values.end(), is_power_of_two);
  return has_powers ? axis_of_powers(*low, *high) : axis_of_decades(*low, *high);
}

std::string tick_text(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.begin(), text.end(), value, std::chars_format::general, 9).ptr;
  return {text.begin(), end};
}

}  // namespace tern::io
