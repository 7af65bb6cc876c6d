#include "tasks/pathfinder_drawing.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>

#include <gtest/gtest.h>

#include "tasks/pathfinder_shapes.h"

namespace tern::tasks::pathfinder {
namespace {

using Levels = std::vector<std::uint8_t>;

Canvas noise(int size) {
  Canvas canvas(size);
  std::uint32_t state = 1;
  for (std::uint8_t& level : canvas.levels) {
    state = state * 1664525u + 1013904223u;
    level = static_cast<std::uint8_t>(state >> 24);
  }
  return canvas;
}

double lanczos(double x) {
  if (x == 0) return 1;
  const double angle = std::numbers::pi * x;
  return std::abs(x) < 3 ? 3 * std::sin(angle) * std::sin(angle / 3) / (angle * angle) : 0;
}

/// One pass of the formula along a row that is given by `level`, in double.
template <class Level>
double shrunk_value(int from, int to, int o, const Level& level) {
  const double scale = static_cast<double>(from) / to, centre = (o + 0.5) * scale;
  double sum = 0, total = 0;
  for (int i = 0; i < from; ++i) {
    const double weight = lanczos((i + 0.5 - centre) / scale);
    sum += weight * level(i);
    total += weight;
  }
  return std::clamp(std::round(sum / total), 0.0, 255.0);
}

TEST(Shrinking, is_the_formula_along_rows_and_then_along_columns) {
  for (const auto& [from, to] : {std::pair{33, 17}, std::pair{64, 32}, std::pair{17, 9}}) {
    const Canvas in = noise(from), out = Shrinking(from, to)(in);
    for (int y = 0; y < to; ++y) {
      for (int x = 0; x < to; ++x) {
        const double expected = shrunk_value(from, to, y, [&](int row) {
          return shrunk_value(from, to, x, [&](int column) { return double{1} * in.at(row, column); });
        });
        ASSERT_NEAR(out.at(y, x), expected, 1) << from << ": " << y << ", " << x;
      }
    }
  }
}

/// Computed with the published program on Pillow 13.0 and OpenCV 4.11: one paddle of the 32-pixel set (length
/// 2, thickness 0.5, margin 1) at -137 degrees.
TEST(Shapes, stamps_are_those_of_the_published_program) {
  const Shapes shapes(parameters_of(32, Difficulty::hard), 1);
  const Levels taken{0, 0, 1,   2,   1,   0,   0, 0, 0,  //
                     0, 0, 0,   0,   0,   1,   0, 0, 0,  //
                     1, 0, 36,  156, 11,  0,   1, 0, 0,  //
                     2, 0, 168, 255, 187, 21,  2, 1, 0,  //
                     1, 2, 16,  187, 255, 153, 0, 3, 0,  //
                     0, 1, 0,   10,  143, 19,  0, 1, 0,  //
                     0, 0, 1,   0,   0,   0,   0, 0, 0,  //
                     0, 0, 0,   1,   3,   1,   0, 0, 0,  //
                     0, 0, 0,   0,   0,   0,   0, 0, 0};
  EXPECT_EQ(shapes.stamp(43).taken.levels, taken);
  EXPECT_EQ(shapes.body(43), (std::vector<Pixel>{{0, 0}, {1, 1}}));
}

TEST(draw_line, of_width_one_takes_the_nearest_pixel_of_each_step) {
  for (int dy = -9; dy <= 9; ++dy) {
    for (int dx = -9; dx <= 9; ++dx) {
      Canvas canvas(25);
      draw_line(canvas, {12, 12}, {12 + dy, 12 + dx}, 1);
      const int steps = std::max(std::abs(dy), std::abs(dx));
      ASSERT_EQ(std::count(canvas.levels.begin(), canvas.levels.end(), 255), steps + 1);
      for (int step = 0; step <= steps; ++step) {
        const double share = steps == 0 ? 0 : static_cast<double>(step) / steps;
        const double y = 12 + dy * share, x = 12 + dx * share;
        const bool is_steep = std::abs(dy) > std::abs(dx);
        int hits = 0;  // at most half a pixel away across the longer side
        for (int near = -1; near <= 1; ++near) {
          const int row = is_steep ? static_cast<int>(std::round(y)) : static_cast<int>(std::floor(y)) + near;
          const int column =
              is_steep ? static_cast<int>(std::floor(x)) + near : static_cast<int>(std::round(x));
          const double off = is_steep ? std::abs(column - x) : std::abs(row - y);
          hits += canvas.at(row, column) == 255 && off <= 0.5 + 1e-9;
        }
        ASSERT_GE(hits, 1) << dy << ", " << dx << " step " << step;
      }
    }
  }
}

TEST(draw_line, is_as_wide_as_asked_for) {
  const auto drawn = [](Pixel to, int width) {
    Canvas canvas(41);
    draw_line(canvas, {20, 20}, to, width);
    return canvas;
  };
  for (const int width : {2, 3, 4}) {
    for (const Pixel to : {Pixel{20, 30}, Pixel{20, 10}, Pixel{30, 20}, Pixel{10, 20}}) {
      const Canvas canvas = drawn(to, width);
      EXPECT_EQ(std::count(canvas.levels.begin(), canvas.levels.end(), 255), 11 * width) << width;
    }
    for (int degree = 0; degree < 360; degree += 7) {
      const Pixel to = moved({20, 20}, degree * std::numbers::pi / 180, 10);
      const double length = std::hypot(to.y - 20, to.x - 20), uy = (to.y - 20) / length,
                   ux = (to.x - 20) / length;
      const Canvas canvas = drawn(to, width);
      int inside = 0;
      for (int y = 0; y < 41; ++y) {
        for (int x = 0; x < 41; ++x) {
          const double along = (x - 20) * ux + (y - 20) * uy, across = std::abs((x - 20) * uy - (y - 20) * ux);
          const bool is_far = across > width / 2.0 + 1 || along < -1.5 || along > length + 1.5;
          const bool is_core = across < width / 2.0 - 1 && along > 1 && along < length - 1;
          ASSERT_FALSE(is_far && canvas.at(y, x) != 0) << degree << ", " << y << ", " << x;
          ASSERT_FALSE(is_core && canvas.at(y, x) == 0) << degree << ", " << y << ", " << x;
          inside += canvas.at(y, x) == 255;
        }
      }
      // Corners are whole pixels, so slanted lines may lose up to half of their width.
      EXPECT_GT(inside, (length + 1) * width * 0.5) << degree;
      EXPECT_LT(inside, (length + 1) * width * 1.4) << degree;
    }
  }
}

TEST(draw_disc, fills_what_lies_within_the_radius_and_in_the_canvas) {
  for (const Pixel centre : {Pixel{10, 10}, Pixel{0, 3}, Pixel{20, 20}}) {
    Canvas canvas(21);
    draw_disc(canvas, centre, 5);
    for (int y = 0; y < 21; ++y)
      for (int x = 0; x < 21; ++x)
        ASSERT_EQ(canvas.at(y, x) == 255, std::hypot(y - centre.y, x - centre.x) <= 5) << y << ", " << x;
  }
}

TEST(dilated, takes_the_greatest_level_within_the_radius) {
  const Canvas in = noise(13);
  for (const int radius : {1, 2, 3, 6}) {
    const Canvas out = dilated(in, radius);
    for (int y = 0; y < 13; ++y) {
      for (int x = 0; x < 13; ++x) {
        std::uint8_t most = 0;
        for (int v = 0; v < 13; ++v)
          for (int u = 0; u < 13; ++u)
            if ((v - y) * (v - y) + (u - x) * (u - x) <= radius * radius) most = std::max(most, in.at(v, u));
        ASSERT_EQ(out.at(y, x), most) << radius << ": " << y << ", " << x;
      }
    }
  }
}

TEST(moved, rounds_both_coordinates_up) {
  EXPECT_EQ(moved({5, 5}, 0, 2.5), (Pixel{5, 8}));
  EXPECT_EQ(moved({5, 5}, std::numbers::pi, 2.5), (Pixel{5, 3}));
  EXPECT_EQ(moved({5, 5}, -1, 3), (Pixel{3, 7}));  // 5 - 2.52, 5 + 1.62
  EXPECT_EQ(moved({5, 5}, 2, 3), (Pixel{8, 4}));   // 5 + 2.73, 5 - 1.25
}

}  // namespace
}  // namespace tern::tasks::pathfinder
