// Ragged batches for the hashing tests, and comparisons that fail on empty ranges.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/hashing.h"

namespace tern::kernels::hashing_case {

enum class Directions { normal, common_mean, few_directions, all_equal };

inline RandomStream test_stream(const std::uint32_t& step) { return {stream_key(7, "tests.hashing"), &step}; }

inline std::vector<float> normals(std::size_t count, std::int64_t sample) {
  static const std::uint32_t step = 0;
  std::vector<float> out(count);
  fill_normal({stream_key(11, "tests.values"), &step}, sample, 0, out);
  return out;
}

/// Sequences of the given lengths; q, k, v lie side by side as in one product, q and k rows have length one.
template <class T>
struct Batch {
  Batch(std::vector<int> sequence_lengths, int head_count, int head_width, Directions kind = Directions::normal)
      : lengths(std::move(sequence_lengths)), heads(head_count), width(head_width) {
    offsets.push_back(0);
    for (const int length : lengths) offsets.push_back(offsets.back() + length);
    tokens = offsets.back();
    position.resize(static_cast<std::size_t>(tokens));
    sample.resize(lengths.size());
    std::iota(sample.begin(), sample.end(), 100);
    order.resize(lengths.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater{},
                             [&](std::int32_t s) { return lengths[static_cast<std::size_t>(s)]; });
    const std::size_t size = static_cast<std::size_t>(tokens * heads * width);
    const std::vector<float> drawn = normals(4 * size, 0),
                             means = normals(static_cast<std::size_t>(8 * heads * width), 1);
    values.assign(drawn.begin(), drawn.begin() + static_cast<std::ptrdiff_t>(3 * size));
    dy_values.assign(drawn.begin() + static_cast<std::ptrdiff_t>(3 * size), drawn.end());
    for (std::int64_t token = 0; token < tokens; ++token) {
      for (int part = 0; part < 2 * heads; ++part) shape_row(token, part, kind, means);
    }
  }

  Sequences sequences() const {
    return {static_cast<std::int64_t>(lengths.size()),
            offsets.data(),
            position.data(),
            sample.data(),
            order.data(),
            tokens,
            lengths.empty() ? 0 : std::ranges::max(lengths)};
  }
  Heads<const T> view(int part) const {
    return {values.data() + part * heads * width, tokens, heads, width, 3 * heads * width, width};
  }
  Heads<const T> q() const { return view(0); }
  Heads<const T> k() const { return view(1); }
  Heads<const T> v() const { return view(2); }
  Heads<const T> dy() const { return {dy_values.data(), tokens, heads, width, heads * width, width}; }
  Heads<T> output(std::vector<T>& out) const {
    out.assign(static_cast<std::size_t>(tokens * heads * width), T(NAN));
    return {out.data(), tokens, heads, width, heads * width, width};
  }
  template <class Code>
  std::vector<Code> codes(HashShape shape) const {
    return std::vector<Code>(static_cast<std::size_t>(tokens * heads * shape.hashes));
  }

  std::vector<int> lengths;
  int heads, width;
  std::int64_t tokens = 0;
  std::vector<std::int32_t> offsets, position, order;
  std::vector<std::int64_t> sample;
  std::vector<T> values, dy_values;

 private:
  void shape_row(std::int64_t token, int part, Directions kind, const std::vector<float>& means) {
    T* row = values.data() + (token * 3 * heads + part) * width;
    const int head = part % heads;
    const int center = kind == Directions::few_directions ? static_cast<int>(token * 5 % 8) : 0;
    double square = 0;
    for (int c = 0; c < width; ++c) {
      const T mean = means[static_cast<std::size_t>((center * heads + head) * width + c)];
      if (kind == Directions::common_mean) row[c] += mean;
      if (kind == Directions::all_equal) row[c] = mean;
      if (kind == Directions::few_directions) row[c] = mean + T(0.02) * row[c];
      square += static_cast<double>(row[c]) * static_cast<double>(row[c]);
    }
    for (int c = 0; c < width; ++c) row[c] = static_cast<T>(row[c] / std::sqrt(square));
  }
};

/// Runs body(Cpu<level>) for every level that this processor has.
template <class Body>
void for_each_isa(const Body& body) {
  Cpu<Isa::v2> v2;
  body(v2);
  Cpu<Isa::v3> v3;
  if (cpu_isa() >= Isa::v3) body(v3);
  Cpu<Isa::v4> v4;
  if (cpu_isa() >= Isa::v4) body(v4);
}

/// Largest difference, relative to the largest expected size (at least one).
template <class A, class B>
double largest_difference(const std::vector<A>& actual, const std::vector<B>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  EXPECT_FALSE(expected.empty());
  if (actual.size() != expected.size()) return INFINITY;
  double difference = 0, size = 1;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double d = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    if (!(d <= difference)) difference = d;  // NaN stays
    size = std::max(size, std::abs(static_cast<double>(expected[i])));
  }
  return difference / size;
}

}  // namespace tern::kernels::hashing_case
