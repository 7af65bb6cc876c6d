// What the published Pathfinder sets were drawn with. Sources: drewlinsley/pathfinder, snakes2_wrapper.py, for
// the procedure's own values; google-research/long-range-arena, lra_benchmarks/data/pathfinder.py, for the four
// sizes of the benchmark.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace tern::tasks::pathfinder {

/// Paddles of each of the two long contours: 6, 9 or 14.
enum class Difficulty : std::uint8_t { easy, intermediate, hard };

inline constexpr std::array difficulties{Difficulty::easy, Difficulty::intermediate, Difficulty::hard};

std::string_view name(Difficulty difficulty);
/// Error(failed) naming the choices.
Difficulty difficulty_named(std::string_view text);

/// Lengths in pixels of the image.
struct Parameters {
  int size = 0;              ///< rows, and columns
  int padding = 0;           ///< border that the long contours keep free
  std::vector<int> margins;  ///< free space around a paddle; one is drawn for each image
  int seed_distance = 0;     ///< between the first ends of the long contours
  double marker_radius = 0;  ///< of the discs
  int paddle_length = 0;
  double paddle_thickness = 0;  ///< times `magnification` it is whole
  double continuity = 0;        ///< the greater, the straighter
  double contrast = 0;          ///< brightness of the long contours
  double distractor_contrast = 0;
  int contour_length = 0;     ///< paddles of a long contour
  int distractor_length = 0;  ///< paddles of a distractor: contour_length / 3, rounded down
  int distractors = 0;        ///< distractors that are tried: clutter / distractor_length, rounded down
};

inline constexpr int magnification = 2;     ///< lines and discs are drawn so many times larger and shrunk
inline constexpr int paddle_tries = 3;      ///< for each paddle, the first one of a contour too
inline constexpr int distractor_tries = 5;  ///< for each distractor
inline constexpr double least_free = 0.01;  ///< share of free pixels below which no distractor is tried

/// Error(failed) for a size other than 32, 64, 128 and 256.
Parameters parameters_of(int size, Difficulty difficulty);

}  // namespace tern::tasks::pathfinder
