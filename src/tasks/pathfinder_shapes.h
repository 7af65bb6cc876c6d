// What the paddles of one margin look like in every direction, and where the next paddle of a contour may end.
// All of it is made once, so that growing a contour only looks things up.
#pragma once

#include <vector>

#include "tasks/pathfinder_drawing.h"
#include "tasks/pathfinder_parameters.h"

namespace tern::tasks::pathfinder {

inline constexpr int full = 255;
/// Two paddles collide where they cover a pixel to this much together: 1.8 of full.
inline constexpr int collision = 459;

/// One paddle seen from its start, which is the middle of each canvas. Levels of `taken` and `reserved` are
/// shares of 255 by which a pixel is covered.
struct Stamp {
  Canvas line;              ///< what is drawn
  Canvas taken;             ///< the line with its margin: no other paddle may lie here
  Canvas reserved;          ///< `taken` with a second margin: no other paddle should end here
  std::vector<Pixel> core;  ///< pixels of `taken`, seen from the start, that may collide with a full one
};

/// Where the next paddle of a contour may go.
struct NextPaddle {
  int direction = 0;
  Pixel end;  ///< its far end, seen from the middle of the gap before it
  /// Its chance up to a factor: cos(c d)^2 for an angle d between the two paddles with c d < pi / 2, where c is
  /// the continuity.
  double weight = 0;
};

/// Directions are numbered: 0 ... 359 are the whole degrees from -180 on, for the first paddle of a contour,
/// which starts where the contour does; from 360 on come the directions from the middle of a gap to the pixels
/// of a circle of radius paddle_length + margin around it, by rows. A paddle of these ends at such a pixel, and
/// its stamp starts there.
class Shapes {
 public:
  static constexpr int degrees = 360;

  Shapes(const Parameters& parameters, int margin);

  int margin() const { return margin_; }
  /// Radians in (-pi, pi], except -pi for number 0.
  double angle(int direction) const { return angles_[static_cast<std::size_t>(direction)]; }
  const Stamp& stamp(int direction) const { return stamps_[static_cast<std::size_t>(direction)]; }
  /// Where the next paddle may go after one of `direction`: the candidates with a chance above 0, by rows.
  const std::vector<NextPaddle>& choices(int direction) const {
    return choices_[static_cast<std::size_t>(direction)];
  }
  /// Pixels that must be free where a first paddle starts, seen from there. They lie one pixel below and to the
  /// right of the paddle: so did the published ones.
  const std::vector<Pixel>& body(int degree) const { return bodies_[static_cast<std::size_t>(degree)]; }
  /// Whether a contour may begin in this direction: its body has a pixel in each quadrant around the start
  /// (axes count for both sides). The published procedure looks for free places by a dilation that has no value
  /// where all of the body lies outside the image, and gives up if it meets such a place; only these directions
  /// have none.
  bool can_begin(int degree) const { return can_begin_[static_cast<std::size_t>(degree)]; }

 private:
  Stamp draw(const Parameters& parameters, double angle) const;

  int margin_;
  std::vector<double> angles_;
  std::vector<std::vector<NextPaddle>> choices_;
  std::vector<Stamp> stamps_;
  std::vector<std::vector<Pixel>> bodies_;
  std::vector<bool> can_begin_;
};

}  // namespace tern::tasks::pathfinder
