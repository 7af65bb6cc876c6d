#include "tasks/pathfinder_drawing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numbers>

namespace tern::tasks::pathfinder {
namespace {

/// The nearest whole number; halves go away from zero, or towards it.
int nearest_away(double x) { return static_cast<int>(std::copysign(std::floor(std::abs(x) + 0.5), x)); }
int nearest_towards(double x) { return static_cast<int>(std::copysign(std::ceil(std::abs(x) - 0.5), x)); }

void draw_thin_line(Canvas& canvas, Pixel from, Pixel to) {
  const int dy = to.y - from.y, dx = to.x - from.x, steps = std::max(std::abs(dy), std::abs(dx));
  // steps * part / steps rounded to the nearest, halves away from zero
  const auto part = [&](int step, int side) {
    const int whole = (2 * step * std::abs(side) + steps) / (2 * steps);
    return side < 0 ? -whole : whole;
  };
  canvas.at(from.y, from.x) = 255;
  for (int step = 1; step <= steps; ++step) canvas.at(from.y + part(step, dy), from.x + part(step, dx)) = 255;
}

double sinc(double x) {
  const double angle = std::numbers::pi * x;
  return x == 0 ? 1 : std::sin(angle) / angle;
}

constexpr int weight_bits = 22;

/// A sum of weighted levels as the nearest level.
std::uint8_t to_level(int sum) {
  return static_cast<std::uint8_t>(std::clamp((sum + (1 << (weight_bits - 1))) >> weight_bits, 0, 255));
}

}  // namespace

Pixel moved(Pixel from, double angle, double distance) {
  return {static_cast<int>(std::ceil(from.y + distance * std::sin(angle))),
          static_cast<int>(std::ceil(from.x + distance * std::cos(angle)))};
}

void draw_line(Canvas& canvas, Pixel from, Pixel to, int width) {
  if (width == 1 || from == to) return draw_thin_line(canvas, from, to);
  const int dy = to.y - from.y, dx = to.x - from.x;
  const double length = std::hypot(dx, dy), less = (width - 1) / 2 / length, more = width / 2 / length;
  const Pixel across{nearest_away(more * dx), -nearest_towards(less * dy)};
  const Pixel back{-nearest_away(less * dx), nearest_towards(more * dy)};
  const std::array corners{from + across, to + across, to + back, from + back};
  const auto [top, bottom] =
      std::minmax_element(corners.begin(), corners.end(), [](Pixel a, Pixel b) { return a.y < b.y; });
  for (int y = top->y; y <= bottom->y; ++y) {
    double left = canvas.size, right = -1;
    for (std::size_t i = 0; i < corners.size(); ++i) {
      const Pixel a = corners[i], b = corners[(i + 1) % corners.size()];
      if (y < std::min(a.y, b.y) || y > std::max(a.y, b.y)) continue;
      // A level side adds nothing that its two neighbours do not.
      const double x = a.y == b.y ? a.x : a.x + static_cast<double>((b.x - a.x) * (y - a.y)) / (b.y - a.y);
      left = std::min(left, x);
      right = std::max(right, x);
    }
    for (int x = nearest_away(left); x <= nearest_towards(right); ++x) canvas.at(y, x) = 255;
  }
}

void draw_disc(Canvas& canvas, Pixel centre, double radius) {
  const int reach = static_cast<int>(radius), last = canvas.size - 1;
  for (int y = std::max(0, centre.y - reach); y <= std::min(last, centre.y + reach); ++y) {
    for (int x = std::max(0, centre.x - reach); x <= std::min(last, centre.x + reach); ++x) {
      const int dy = y - centre.y, dx = x - centre.x;
      if (dy * dy + dx * dx <= radius * radius) canvas.at(y, x) = 255;
    }
  }
}

Canvas dilated(const Canvas& canvas, int radius) {
  Canvas out(canvas.size);
  for (int dy = -radius; dy <= radius; ++dy) {
    const int dx = static_cast<int>(std::sqrt(radius * radius - dy * dy));
    for (int y = std::max(0, -dy); y < std::min(canvas.size, canvas.size - dy); ++y) {
      for (int x = 0; x < canvas.size; ++x) {
        const auto row = canvas.levels.begin() + static_cast<std::ptrdiff_t>(canvas.place(y + dy, 0));
        const auto greatest =
            std::max_element(row + std::max(0, x - dx), row + std::min(canvas.size, x + dx + 1));
        out.at(y, x) = std::max(out.at(y, x), *greatest);
      }
    }
  }
  return out;
}

Shrinking::Shrinking(int from, int to) : from_(from), to_(to), weights_(static_cast<std::size_t>(to)) {
  const double scale = static_cast<double>(from) / to;
  for (int o = 0; o < to; ++o) {
    const double centre = (o + 0.5) * scale;
    Weights& weights = weights_[static_cast<std::size_t>(o)];
    weights.first = std::max(0, static_cast<int>(std::floor(centre - 3 * scale + 0.5)));
    const int end = std::min(from, static_cast<int>(std::floor(centre + 3 * scale + 0.5)));
    std::vector<double> values;
    double sum = 0;
    for (int i = weights.first; i < end; ++i) {
      const double x = (i + 0.5 - centre) / scale;
      values.push_back(std::abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);
      sum += values.back();
    }
    for (const double value : values) weights.values.push_back(nearest_away(value / sum * (1 << weight_bits)));
  }
}

Canvas Shrinking::operator()(const Canvas& canvas) const {
  // Most rows of a canvas are empty, and so are then their results.
  std::vector<std::uint8_t> rows(static_cast<std::size_t>(from_) * static_cast<std::size_t>(to_));
  std::vector<bool> is_empty(static_cast<std::size_t>(from_), true);
  const auto at = [&](int y, int x) -> std::uint8_t& {
    return rows[static_cast<std::size_t>(y) * static_cast<std::size_t>(to_) + static_cast<std::size_t>(x)];
  };
  for (int y = 0; y < from_; ++y) {
    const auto begin = canvas.levels.begin() + static_cast<std::ptrdiff_t>(canvas.place(y, 0));
    if (std::all_of(begin, begin + from_, [](std::uint8_t level) { return level == 0; })) continue;
    is_empty[static_cast<std::size_t>(y)] = false;
    for (int o = 0; o < to_; ++o) {
      const Weights& weights = weights_[static_cast<std::size_t>(o)];
      int sum = 0;
      for (std::size_t i = 0; i < weights.values.size(); ++i)
        sum += weights.values[i] * begin[weights.first + static_cast<std::ptrdiff_t>(i)];
      at(y, o) = to_level(sum);
    }
  }
  Canvas out(to_);
  std::vector<int> sums(static_cast<std::size_t>(to_));
  for (int o = 0; o < to_; ++o) {
    const Weights& weights = weights_[static_cast<std::size_t>(o)];
    std::fill(sums.begin(), sums.end(), 0);
    for (std::size_t i = 0; i < weights.values.size(); ++i) {
      const int y = weights.first + static_cast<int>(i);
      if (is_empty[static_cast<std::size_t>(y)]) continue;
      for (int x = 0; x < to_; ++x) sums[static_cast<std::size_t>(x)] += weights.values[i] * at(y, x);
    }
    for (int x = 0; x < to_; ++x) out.at(o, x) = to_level(sums[static_cast<std::size_t>(x)]);
  }
  return out;
}

}  // namespace tern::tasks::pathfinder
