#include "tern/random.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace tern::test {
namespace {

constexpr std::uint32_t step_zero = 0;

RandomStream stream_of(std::uint64_t seed) { return {stream_key(seed, "tests.random"), &step_zero}; }

void expect_words(const PhiloxWords& actual, std::array<std::uint32_t, 4> expected) {
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(actual.word[i], expected[i]) << "word " << i;
}

/// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(Philox, known_answers) {
  expect_words(philox({{0, 0, 0, 0}}, {0, 0}), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  expect_words(philox({{ones, ones, ones, ones}}, {ones, ones}),
               {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect_words(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, {0xa4093822, 0x299f31d0}),
               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Philox, stream_coordinates_are_block_sample_and_step) {
  std::uint32_t step = 5;
  const RandomStream stream{{11, 12}, &step};
  const std::uint64_t block = 0x0000000300000002;
  expect_words(stream.words(7, block), std::to_array(philox({{2, 3, 7, 5}}, {11, 12}).word));
  step = 6;
  expect_words(stream.words(7, block), std::to_array(philox({{2, 3, 7, 6}}, {11, 12}).word));
}

TEST(StreamKey, depends_on_seed_and_path) {
  std::set<std::pair<std::uint32_t, std::uint32_t>> keys;
  for (const std::uint64_t seed : {0, 1, 2})
    for (const char* path : {"", "encoder.layers.0.dropout", "encoder.layers.1.dropout", "head.output.weight",
                             "encoder.layers.0.dropout.initial"}) {
      const PhiloxKey key = stream_key(seed, path);
      keys.insert({key.low, key.high});
    }
  EXPECT_EQ(keys.size(), 15);
  EXPECT_EQ(stream_key(3, "x").low, stream_key(3, "x").low);
}

TEST(Uniform, stays_inside_the_open_interval) {
  EXPECT_GT(to_uniform(0), 0);
  EXPECT_LT(to_uniform(0xffffffff), 1);
  EXPECT_NEAR(to_uniform(0x80000000), 0.5, 0x1p-23);
}

std::vector<float> normals(std::size_t count, std::uint64_t seed) {
  std::vector<float> out(count);
  fill_normal(stream_of(seed), 0, 0, out);
  return out;
}

/// A million draws: moments within 5 standard errors of 0, 1, 0, 3.
TEST(Normal, moments) {
  const std::size_t count = 1 << 20;
  double sums[5] = {};
  for (const float x : normals(count, 1))
    for (int power = 1; power <= 4; ++power) sums[power] += std::pow(static_cast<double>(x), power);
  const double n = static_cast<double>(count);
  EXPECT_NEAR(sums[1] / n, 0, 5 * std::sqrt(1 / n));
  EXPECT_NEAR(sums[2] / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(sums[3] / n, 0, 5 * std::sqrt(15 / n));
  EXPECT_NEAR(sums[4] / n, 3, 5 * std::sqrt(96 / n));
}

/// Largest distance of the empirical distribution from Phi: below the 1e-6 quantile of Kolmogorov's statistic.
TEST(Normal, distribution) {
  std::vector<float> x = normals(1 << 18, 2);
  std::sort(x.begin(), x.end());
  const double n = static_cast<double>(x.size());
  double distance = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double phi = 0.5 * std::erfc(-static_cast<double>(x[i]) / std::sqrt(2.0));
    distance = std::max(
        {distance, std::abs(phi - static_cast<double>(i) / n), std::abs(phi - static_cast<double>(i + 1) / n)});
  }
  EXPECT_LT(distance * std::sqrt(n), 2.7);
}

TEST(Normal, tail) {
  std::size_t beyond_three = 0, beyond_four = 0;
  const std::vector<float> x = normals(1 << 20, 3);
  for (const float value : x) beyond_three += std::abs(value) > 3, beyond_four += std::abs(value) > 4;
  EXPECT_NEAR(static_cast<double>(beyond_three), 2830.9, 5 * std::sqrt(2830.9));
  EXPECT_NEAR(static_cast<double>(beyond_four), 66.4, 5 * std::sqrt(66.4));
  for (const float value : x) ASSERT_TRUE(std::isfinite(value));
}

/// Neighbours of a pair and draws of neighbouring samples.
TEST(Normal, draws_are_uncorrelated) {
  const std::vector<float> x = normals(1 << 18, 4);
  std::vector<float> y(x.size());
  fill_normal(stream_of(4), 1, 0, y);
  double next = 0, other = 0, squares = 0;
  for (std::size_t i = 0; i + 1 < x.size(); ++i) {
    next += static_cast<double>(x[i]) * x[i + 1];
    other += static_cast<double>(x[i]) * y[i];
    squares += (static_cast<double>(x[i]) * x[i] - 1) * (static_cast<double>(x[i + 1]) * x[i + 1] - 1);
  }
  const double n = static_cast<double>(x.size());
  EXPECT_LT(std::abs(next) / n, 5 / std::sqrt(n));
  EXPECT_LT(std::abs(other) / n, 5 / std::sqrt(n));
  EXPECT_LT(std::abs(squares) / n, 10 / std::sqrt(n));
}

/// Draws do not depend on how a range is cut into calls.
TEST(Fill, chunks_do_not_matter) {
  for (const auto fill : {&fill_normal, &fill_uniform}) {
    std::vector<float> whole(1003), parts(1003);
    fill(stream_of(5), 9, 40, whole);
    for (std::size_t done = 0, chunk = 4; done < parts.size(); done += chunk, chunk = chunk * 2 % 124 + 4)
      fill(stream_of(5), 9, 40 + done / 4,
           std::span(parts).subspan(done, std::min(chunk, parts.size() - done)));
    EXPECT_EQ(parts, whole);
  }
}

TEST(Fill, uniform_is_the_words_in_order) {
  std::vector<float> out(6);
  fill_uniform(stream_of(6), 2, 3, out);
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(out[i], to_uniform(stream_of(6).words(2, 3 + i / 4).word[i % 4]));
}

}  // namespace
}  // namespace tern::test
