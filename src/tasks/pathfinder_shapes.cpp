#include "tasks/pathfinder_shapes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>

namespace tern::tasks::pathfinder {
namespace {

constexpr double pi = std::numbers::pi;

/// Pixels of a canvas at `least` or more, seen from its middle.
std::vector<Pixel> pixels_from(const Canvas& canvas, int least) {
  std::vector<Pixel> out;
  const int half = canvas.size / 2;
  for (int y = -half; y <= half; ++y)
    for (int x = -half; x <= half; ++x)
      if (canvas.at(y + half, x + half) >= least) out.push_back({y, x});
  return out;
}

/// The full pixels moved by one and cut to `reach` around the start.
std::vector<Pixel> body_of(const Canvas& taken, int reach) {
  std::vector<Pixel> out;
  for (const Pixel p : pixels_from(taken, full)) {
    const Pixel moved = p + Pixel{1, 1};
    if (std::max(std::abs(moved.y), std::abs(moved.x)) <= reach) out.push_back(moved);
  }
  return out;
}

bool is_around_start(const std::vector<Pixel>& body) {
  for (const Pixel side : {Pixel{1, 1}, Pixel{1, -1}, Pixel{-1, 1}, Pixel{-1, -1}}) {
    if (std::none_of(body.begin(), body.end(), [&](Pixel p) { return p.y * side.y >= 0 && p.x * side.x >= 0; }))
      return false;
  }
  return true;
}

/// The pixels that steps of one pixel along a circle around the origin meet.
std::vector<Pixel> circle(int radius) {
  std::vector<Pixel> out;
  for (int step = 0; step < 2 * pi * radius; ++step) {
    const double angle = static_cast<double>(step) / radius;
    const Pixel pixel{static_cast<int>(std::floor(radius * std::sin(angle))),
                      static_cast<int>(std::floor(radius * std::cos(angle)))};
    if (std::find(out.begin(), out.end(), pixel) == out.end()) out.push_back(pixel);
  }
  std::sort(out.begin(), out.end(), [](Pixel a, Pixel b) { return a.y != b.y ? a.y < b.y : a.x < b.x; });
  return out;
}

/// `canvas` with `border` empty pixels around it.
Canvas framed(const Canvas& canvas, int border) {
  Canvas out(canvas.size + 2 * border);
  for (int y = 0; y < canvas.size; ++y)
    for (int x = 0; x < canvas.size; ++x) out.at(y + border, x + border) = canvas.at(y, x);
  return out;
}

}  // namespace

Shapes::Shapes(const Parameters& parameters, int margin) : margin_(margin) {
  const std::vector<Pixel> ends = circle(parameters.paddle_length + margin);
  for (int degree = -180; degree < 180; ++degree) angles_.push_back(degree * pi / 180);
  for (const Pixel end : ends) angles_.push_back(std::atan2(end.y, end.x));
  for (const double last : angles_) {
    std::vector<NextPaddle>& choices = choices_.emplace_back();
    for (int i = 0; i < static_cast<int>(ends.size()); ++i) {
      const double turn = std::abs(angle(degrees + i) - last), between = std::min(turn, 2 * pi - turn);
      const double cosine = std::cos(between * parameters.continuity);
      if (between * parameters.continuity < pi / 2)
        choices.push_back({degrees + i, ends[static_cast<std::size_t>(i)], cosine * cosine});
    }
  }
  for (int direction = 0; direction < static_cast<int>(angles_.size()); ++direction) {
    const double along = angle(direction), back = along < 0 ? along + pi : along - pi;
    stamps_.push_back(draw(parameters, direction < degrees ? along : back));
    if (direction >= degrees) continue;
    bodies_.push_back(body_of(stamps_.back().taken, parameters.paddle_length + margin));
    can_begin_.push_back(is_around_start(bodies_.back()));
  }
}

Stamp Shapes::draw(const Parameters& parameters, double angle) const {
  const int length = parameters.paddle_length;
  const int half = length + static_cast<int>(std::ceil(parameters.paddle_thickness)) + margin_;
  const Shrinking shrink(2 * half * magnification + 1, 2 * half + 1);
  const Pixel middle{half * magnification, half * magnification};
  Canvas line(shrink.from());
  draw_line(line, middle, moved(middle, angle, length * magnification),
            static_cast<int>(std::lround(parameters.paddle_thickness * magnification)));
  const Canvas taken = shrink(dilated(line, margin_ * magnification));
  return {shrink(line), taken, dilated(framed(taken, margin_), margin_), pixels_from(taken, collision - full)};
}

}  // namespace tern::tasks::pathfinder
