// How the contours of a Pathfinder image come about. Source of the procedure: drewlinsley/pathfinder, snakes.py
// and snakes2.py. In short:
//
//   two long contours begin `seed_distance` pixels apart, in directions of their own, and grow by one paddle
//   each in turn. The next paddle leaves the middle of the gap behind the last one, towards a pixel of a circle
//   around that middle; which one is drawn by chance, the less the contour turns and the freer the pixel the
//   likelier. If a paddle finds no room, both contours are given up and begun again. Then short contours of the
//   same kind, the distractors, grow where there is room; those that find none are left out. A disc marks the
//   first end of one long contour, a second one the last end of the same contour (label 1) or of the other
//   (label 0).
//
// Both classes have the same contours and discs: the label is in what the discs mark alone.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tasks/pathfinder_shapes.h"
#include "tasks/sample_words.h"

namespace tern::tasks::pathfinder {

struct Paddle {
  Pixel start;        ///< where its stamp goes
  int direction = 0;  ///< number of its direction (Shapes)
};

struct Contour {
  Pixel first, last;  ///< its two ends
  std::vector<Paddle> paddles;
};

/// Everything about an image but its pixels.
struct Scene {
  int label = 0;
  int margin = 0;
  std::array<Contour, 2> contours;
  std::vector<Contour> distractors;
  std::array<Pixel, 2> markers;
  std::int64_t attempts = 0;  ///< how often the two contours were begun
};

/// Which pixels paddles take, and which ends of paddles avoid.
class Space {
 public:
  /// An empty square but for its border.
  Space(int size, int border, int margin);

  bool contains(Pixel p) const { return p.y >= 0 && p.y < taken_.size && p.x >= 0 && p.x < taken_.size; }
  /// Share of 255 by which a pixel is reserved.
  int reserved(Pixel p) const { return reserved_.at(p.y, p.x); }
  /// Whether a paddle collides with none that are there. Linear in its core.
  bool fits(const Stamp& stamp, Pixel start) const;
  void add(const Stamp& stamp, Pixel start);
  /// Pixels that are taken by less than 0.3.
  std::int64_t free_pixels() const;
  /// Pixels around which all of `body` is free and off the outermost pixels, by rows; parts of the body outside
  /// the square do not count.
  std::vector<Pixel> free_places(const std::vector<Pixel>& body) const;

 private:
  Canvas taken_, reserved_;
};

/// Draws contours and markers for a label in an `empty` space. Error(failed) if the contours find no room in a
/// million attempts.
Scene grow_scene(const Parameters& parameters, const Shapes& shapes, const Space& empty, int label,
                 SampleWords& words);

}  // namespace tern::tasks::pathfinder
