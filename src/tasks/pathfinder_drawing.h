// Lines and discs of Pathfinder images: drawn `magnification` times larger without grey levels, then shrunk.
//
// Shrinking from n to m places by Lanczos' kernel, s = n / m: the weight of place i for result o is
//
//   L((i + 1/2 - (o + 1/2) s) / s),   L(x) = sinc(x) sinc(x / 3) for |x| < 3, else 0,   sinc(x) = sin(pi x) /
//   (pi x)
//
// divided by the sum of the weights of all places that exist. Rows first, then columns; each pass rounds to
// 0 ... 255. That rounding matters: it removes the negative lobes and keeps the faint positive ones, which are
// part of the published images.
#pragma once

#include <cstdint>
#include <vector>

namespace tern::tasks::pathfinder {

/// A place in whole pixels: y counts rows from the top.
struct Pixel {
  int y = 0, x = 0;
  friend Pixel operator+(Pixel a, Pixel b) { return {a.y + b.y, a.x + b.x}; }
  bool operator==(const Pixel&) const = default;
};

/// The place `distance` away in the direction `angle` (radians, from the x axis towards greater y), both
/// coordinates rounded up.
Pixel moved(Pixel from, double angle, double distance);

/// Grey levels of a square, row by row.
struct Canvas {
  int size = 0;
  std::vector<std::uint8_t> levels;

  explicit Canvas(int side)
      : size(side), levels(static_cast<std::size_t>(side) * static_cast<std::size_t>(side)) {}
  std::size_t place(int y, int x) const {
    return static_cast<std::size_t>(y) * static_cast<std::size_t>(size) + static_cast<std::size_t>(x);
  }
  std::uint8_t& at(int y, int x) { return levels[place(y, x)]; }
  std::uint8_t at(int y, int x) const { return levels[place(y, x)]; }
};

/// The straight line between two places, `width` pixels wide, at level 255; both ends lie inside by at least
/// `width`. Width 1: one pixel for each step along the longer side, at the nearest place across. Greater
/// widths: the four-sided figure whose corners are the ends moved across by (width - 1) / 2 on one side and
/// width / 2 on the other (whole parts), each row filled from the pixel nearest to its left edge to the one
/// nearest to its right.
void draw_line(Canvas& canvas, Pixel from, Pixel to, int width);

/// At level 255 every pixel within `radius` of the centre.
void draw_disc(Canvas& canvas, Pixel centre, double radius);

/// The greatest level within `radius` pixels of each pixel.
Canvas dilated(const Canvas& canvas, int radius);

/// Shrinks squares of one size to another; the weights are made once.
class Shrinking {
 public:
  Shrinking(int from, int to);
  int from() const { return from_; }
  Canvas operator()(const Canvas& canvas) const;

 private:
  struct Weights {
    int first = 0;
    std::vector<int> values;  // in units of 2^-22
  };
  int from_, to_;
  std::vector<Weights> weights_;  // one for each place of the result
};

}  // namespace tern::tasks::pathfinder
