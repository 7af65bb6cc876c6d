// The generator against its own record, against a slow second reading of the rules, and against the published
// program: its numbers were measured by running it (drewlinsley/pathfinder, with the scipy.misc.imresize of its
// time put back) on NumPy 1.26, Pillow 13.0 and OpenCV 4.11.
#include "tasks/pathfinder_generator.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <utility>

#include <gtest/gtest.h>

#include "base/parallel.h"
#include "support/thrown_error.h"
#include "tern/device.h"

namespace tern::tasks::pathfinder {
namespace {

using test::mentions;
using test::thrown_error;

struct Set {
  std::vector<Scene> scenes;
  std::vector<Canvas> images;
};

Set made(const Generator& generator, int count) {
  Set set{std::vector<Scene>(static_cast<std::size_t>(count)),
          std::vector<Canvas>(static_cast<std::size_t>(count), Canvas(0))};
  parallel_for(count, 1, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    set.scenes[at] = generator.scene(i);
    set.images[at] = generator.draw(set.scenes[at]);
  });
  return set;
}

const Set& hard_set() {
  static const Set set = made(Generator(32, Difficulty::hard, 0), 4000);
  return set;
}

struct Mean {
  double mean = 0, deviation = 0;
  double error = 0;  ///< standard error of the mean
};

template <class Value>
Mean mean_of(std::size_t count, const Value& value) {
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < count; ++i) {
    sum += value(i);
    squares += value(i) * value(i);
  }
  const double n = static_cast<double>(count), mean = sum / n;
  const double deviation = std::sqrt(std::max(0.0, squares / n - mean * mean));
  return {mean, deviation, deviation / std::sqrt(n)};
}

double share(const Canvas& image, int above) {
  const auto bright = std::count_if(image.levels.begin(), image.levels.end(),
                                    [&](std::uint8_t level) { return level > above; });
  return static_cast<double>(bright) / static_cast<double>(image.levels.size());
}

double mean_level(const Canvas& image) {
  double sum = 0;
  for (const std::uint8_t level : image.levels) sum += level;
  return sum / static_cast<double>(image.levels.size());
}

/// Connected pieces of the pixels above a level; diagonal neighbours touch.
int pieces(const Canvas& image, int above) {
  std::vector<bool> is_open(image.levels.size());
  for (std::size_t i = 0; i < is_open.size(); ++i) is_open[i] = image.levels[i] > above;
  int count = 0;
  std::vector<Pixel> pending;
  for (int y = 0; y < image.size; ++y) {
    for (int x = 0; x < image.size; ++x) {
      if (!is_open[image.place(y, x)]) continue;
      ++count;
      pending = {{y, x}};
      while (!pending.empty()) {
        const Pixel at = pending.back();
        pending.pop_back();
        if (at.y < 0 || at.x < 0 || at.y >= image.size || at.x >= image.size ||
            !is_open[image.place(at.y, at.x)])
          continue;
        is_open[image.place(at.y, at.x)] = false;
        for (int dy = -1; dy <= 1; ++dy)
          for (int dx = -1; dx <= 1; ++dx) pending.push_back(at + Pixel{dy, dx});
      }
    }
  }
  return count;
}

double distance(Pixel a, Pixel b) { return std::hypot(a.y - b.y, a.x - b.x); }

TEST(Pathfinder, parameters_are_the_published_ones) {
  for (const auto& [size, distractors] : std::map<int, int>{{32, 5}, {64, 5}, {128, 8}, {256, 7}}) {
    const Parameters p = parameters_of(size, Difficulty::hard);
    EXPECT_EQ(p.size, size);
    EXPECT_EQ(p.contour_length, 14);
    EXPECT_EQ(p.distractor_length, 4);
    EXPECT_EQ(p.distractors, distractors);
  }
  EXPECT_EQ(parameters_of(32, Difficulty::intermediate).contour_length, 9);
  EXPECT_EQ(parameters_of(32, Difficulty::intermediate).distractors, 6);
  EXPECT_EQ(parameters_of(32, Difficulty::easy).contour_length, 6);
  EXPECT_EQ(parameters_of(32, Difficulty::easy).distractors, 10);
  EXPECT_EQ(thrown_error([] { parameters_of(48, Difficulty::hard); }).code(), ExitCode::failed);
  EXPECT_TRUE(mentions(thrown_error([] { difficulty_named("harder"); }), "easy, intermediate or hard"));
}

TEST(Pathfinder, a_sample_depends_on_seed_and_index_alone) {
  const Generator generator(32, Difficulty::hard, 0), other(32, Difficulty::hard, 1);
  for (const int threads : {1, 3}) {
    set_threads(threads);
    const Set set = made(generator, 100);
    set_threads(0);
    for (std::size_t i = 0; i < set.images.size(); ++i)
      ASSERT_EQ(set.images[i].levels, hard_set().images[i].levels) << threads << " threads, sample " << i;
  }
  const std::int64_t far = (std::int64_t{1} << 32) + 7;  // indices beyond 32 bits are no repetitions
  EXPECT_NE(generator.draw(generator.scene(far)).levels, generator.draw(generator.scene(7)).levels);
  EXPECT_NE(other.draw(other.scene(7)).levels, generator.draw(generator.scene(7)).levels);
}

TEST(Pathfinder, label_one_means_that_both_discs_lie_on_one_contour) {
  for (const Scene& scene : hard_set().scenes) {
    const auto& [a, b] = scene.contours;
    ASSERT_EQ(a.paddles.size(), 14u);
    ASSERT_EQ(b.paddles.size(), 14u);
    const bool begins_at_a = scene.markers[0] == a.first;
    const Contour& marked = begins_at_a ? a : b;
    const Contour& other = begins_at_a ? b : a;
    ASSERT_EQ(scene.markers[0], marked.first);
    ASSERT_EQ(scene.markers[1], scene.label == 1 ? marked.last : other.last);
    for (const Contour* contour : {&a, &b}) {
      ASSERT_EQ(contour->first, contour->paddles.front().start);
      ASSERT_EQ(contour->last, contour->paddles.back().start);
    }
    EXPECT_NEAR(distance(a.first, b.first), 7, 0.75);
  }
}

/// Every paddle begins behind the gap that follows the one before it, so a contour is one dashed curve.
TEST(Pathfinder, a_contour_is_a_chain_of_paddles) {
  for (const auto& [size, count] : std::map<int, int>{{32, 1000}, {64, 20}, {128, 20}, {256, 10}}) {
    const Generator generator(size, Difficulty::hard, 4);
    const Parameters& p = generator.parameters();
    const Set set = made(generator, count);
    std::map<int, Shapes> by_margin;
    for (const Scene& scene : set.scenes) {
      const Shapes& shapes = by_margin.try_emplace(scene.margin, p, scene.margin).first->second;
      std::vector<Contour> all(scene.contours.begin(), scene.contours.end());
      all.insert(all.end(), scene.distractors.begin(), scene.distractors.end());
      for (const Contour& contour : all) {
        for (std::size_t i = 1; i < contour.paddles.size(); ++i) {
          const double angle = shapes.angle(contour.paddles[i].direction);
          const double last = shapes.angle(contour.paddles[i - 1].direction);
          const double turn = std::abs(std::remainder(angle - last, 2 * std::numbers::pi));
          ASSERT_LT(turn * p.continuity, std::numbers::pi / 2);
          // Ends behind each other: one length and two margins, off by at most what rounding makes of them.
          Pixel before = contour.paddles[i - 1].start;
          if (i == 1) before = moved(before, last, p.paddle_length);
          const double step = distance(before, contour.paddles[i].start);
          ASSERT_LE(step, p.paddle_length + 2 * scene.margin + 3) << size;
          ASSERT_GE(step, (p.paddle_length + 2 * scene.margin) * 0.5) << size;
        }
      }
    }
  }
}

/// The rules once more on whole images: what a paddle takes is added up for all paddles in the order of their
/// growth, and no new one may meet 1.8 of a full pixel.
TEST(Pathfinder, no_paddle_collides_with_those_before_it) {
  for (const auto& [size, count] : std::map<int, int>{{32, 60}, {128, 2}}) {
    const Generator generator(size, Difficulty::hard, 5);
    const Parameters& p = generator.parameters();
    for (int sample = 0; sample < count; ++sample) {
      const Scene scene = generator.scene(sample);
      const Shapes shapes(p, scene.margin);
      std::vector<double> taken(static_cast<std::size_t>(size * size));
      const auto visit = [&](const Paddle& paddle, const auto& use) {
        const Canvas& stamp = shapes.stamp(paddle.direction).taken;
        for (int y = 0; y < size; ++y) {
          for (int x = 0; x < size; ++x) {
            const int v = y - paddle.start.y + stamp.size / 2, u = x - paddle.start.x + stamp.size / 2;
            if (v < 0 || u < 0 || v >= stamp.size || u >= stamp.size) continue;
            use(taken[static_cast<std::size_t>(y * size + x)], stamp.at(v, u) / 255.0);
          }
        }
      };
      const auto grow = [&](const Contour& contour, std::size_t i) {
        double most = 0;
        visit(contour.paddles[i], [&](double there, double own) { most = std::max(most, there + own); });
        ASSERT_LT(most, 1.8) << size << ", sample " << sample;
        visit(contour.paddles[i - 1], [](double& there, double own) { there = std::max(there, own); });
      };
      for (int y = 0; y < size; ++y)
        for (int x = 0; x < size; ++x)
          if (std::min({y, x, size - 1 - y, size - 1 - x}) < p.padding)
            taken[static_cast<std::size_t>(y * size + x)] = 1;
      for (std::size_t i = 1; i < 14; ++i)
        for (const Contour& contour : scene.contours) grow(contour, i);
      visit(scene.contours[1].paddles.back(), [](double& there, double own) { there = std::max(there, own); });
      for (const Contour& distractor : scene.distractors) {
        for (std::size_t i = 1; i < distractor.paddles.size(); ++i) grow(distractor, i);
        visit(distractor.paddles.back(), [](double& there, double own) { there = std::max(there, own); });
      }
    }
  }
}

TEST(Pathfinder, a_disc_stands_at_each_marker) {
  const Generator generator(128, Difficulty::hard, 6);
  for (int sample = 0; sample < 20; ++sample) {
    const Scene scene = generator.scene(sample);
    const Canvas image = generator.draw(scene);
    for (const Pixel marker : scene.markers) {
      for (int dy = -2; dy <= 2; ++dy) {
        for (int dx = -2; dx <= 2; ++dx) {
          const Pixel at = marker + Pixel{dy, dx};
          if (at.y < 0 || at.x < 0 || at.y >= 128 || at.x >= 128 || std::hypot(dy, dx) > 2) continue;
          ASSERT_GE(image.at(at.y, at.x), 230) << sample;
        }
      }
    }
  }
}

TEST(Pathfinder, both_labels_have_the_same_statistics_and_equal_shares) {
  const Set& set = hard_set();
  std::vector<std::size_t> of[2];
  for (std::size_t i = 0; i < set.scenes.size(); ++i) of[set.scenes[i].label].push_back(i);
  EXPECT_NEAR(static_cast<double>(of[1].size()), 2000, 4 * std::sqrt(1000.0));
  const auto compare = [&](const char* what, const auto& value) {
    Mean means[2];
    for (int label = 0; label < 2; ++label)
      means[label] = mean_of(of[label].size(), [&](std::size_t i) { return value(of[label][i]); });
    EXPECT_NEAR(means[0].mean, means[1].mean, 4 * std::hypot(means[0].error, means[1].error)) << what;
  };
  compare("non-zero pixels", [&](std::size_t i) { return share(set.images[i], 0); });
  compare("mean level", [&](std::size_t i) { return mean_level(set.images[i]); });
  compare("distractors", [&](std::size_t i) { return static_cast<double>(set.scenes[i].distractors.size()); });
  compare("pieces", [&](std::size_t i) { return double{1} * pieces(set.images[i], 85); });
}

/// What the published program gives for 32 pixels and hard, 1,500 images: means, with deviations of one image.
TEST(Pathfinder, images_have_the_statistics_of_the_published_program) {
  const Set& set = hard_set();
  const auto compare = [&](const char* what, double mean, double deviation, const auto& value) {
    const Mean own = mean_of(set.images.size(), value);
    EXPECT_NEAR(own.mean, mean, 4 * std::hypot(own.error, deviation / std::sqrt(1500.0))) << what;
    EXPECT_NEAR(own.deviation, deviation, 0.1 * deviation) << what;
  };
  compare("non-zero pixels", 0.34108, 0.03838, [&](std::size_t i) { return share(set.images[i], 0); });
  compare("bright pixels", 0.085216, 0.009244, [&](std::size_t i) { return share(set.images[i], 127); });
  compare("mean level", 20.200, 1.994, [&](std::size_t i) { return mean_level(set.images[i]); });
  compare("pieces", 15.3, 3.193, [&](std::size_t i) { return double{1} * pieces(set.images[i], 85); });
  const Mean distractors = mean_of(
      set.scenes.size(), [&](std::size_t i) { return static_cast<double>(set.scenes[i].distractors.size()); });
  EXPECT_NEAR(distractors.mean, 1.1647, 4 * distractors.deviation * std::sqrt(1 / 1500.0 + 1 / 4000.0));
  const Mean attempts =
      mean_of(set.scenes.size(), [&](std::size_t i) { return static_cast<double>(set.scenes[i].attempts); });
  EXPECT_NEAR(attempts.mean, 327.1, 4 * attempts.deviation * std::sqrt(1 / 1500.0 + 1 / 4000.0));
}

TEST(Pathfinder, contours_that_find_no_room_are_an_error) {
  Parameters p = parameters_of(32, Difficulty::hard);
  p.seed_distance = 16;
  const Shapes shapes(p, 1);
  SampleWords words({1, 2}, 0);
  const Error error = thrown_error([&] { grow_scene(p, shapes, Space(32, 1, 1), 0, words); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_TRUE(mentions(error, "found no room")) << error.what();
}

}  // namespace
}  // namespace tern::tasks::pathfinder
