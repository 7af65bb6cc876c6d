#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

Tensor directions_of(std::int64_t count, std::int64_t width, std::uint64_t seed, DType dtype = DType::float64) {
  return orthogonal_directions({count, width}, {test_stream(seed)}, dtype);
}

TEST(OrthogonalDirections, groups_are_orthogonal_and_lengths_are_those_of_normal_vectors) {
  for (const std::int64_t width : {1, 7, 32, 64}) {
    const std::int64_t count = 1000;
    const Array w = array_of(directions_of(count, width, 300));
    double total = 0;
    const auto dot = [&](std::int64_t i, std::int64_t j) {
      double sum = 0;
      for (std::int64_t c = 0; c < width; ++c) sum += w.at(i, c) * w.at(j, c);
      return sum;
    };
    for (std::int64_t i = 0; i < count; ++i) {
      total += dot(i, i);
      for (std::int64_t j = i / width * width; j < i; ++j)
        ASSERT_LT(std::abs(dot(i, j)), 0x1p-7 * std::sqrt(dot(i, i) * dot(j, j))) << i << " " << j;
    }
    // the squared length has mean `width` and variance 2 * width
    const auto expected = static_cast<double>(width);
    EXPECT_NEAR(total / static_cast<double>(count), expected,
                4 * std::sqrt(2 * expected / static_cast<double>(count)));
    for (const double value : w.values) EXPECT_EQ(value, to_float(to_bfloat16(static_cast<float>(value))));
  }
}

TEST(OrthogonalDirections, have_no_preferred_direction) {
  const std::int64_t width = 16, count = 16'000;
  const Array w = array_of(directions_of(count, width, 301));
  for (std::int64_t c = 0; c < width; ++c) {
    double sum = 0, square = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += w.at(i, c), square += w.at(i, c) * w.at(i, c);
    EXPECT_NEAR(sum / static_cast<double>(count), 0, 4 / std::sqrt(static_cast<double>(count))) << c;
    EXPECT_NEAR(square / static_cast<double>(count), 1, 4 * std::sqrt(2 / static_cast<double>(count))) << c;
  }
}

TEST(OrthogonalDirections, change_with_the_interval_only_and_agree_on_all_devices) {
  std::uint32_t step = 0;
  const auto at = [&](std::uint32_t now, std::uint32_t interval, DType dtype) {
    step = now;
    return orthogonal_directions({70, 32}, {{stream_key(1, "directions"), &step}, interval}, dtype)
        .to_vector<double>();
  };
  EXPECT_EQ(at(0, 5, DType::float32), at(4, 5, DType::float32));
  EXPECT_NE(at(4, 5, DType::float32), at(5, 5, DType::float32));
  EXPECT_EQ(at(0, 0, DType::float32), at(123456, 0, DType::float64));
  for (const Device device : test_devices())
    for (const std::int64_t width : {12, 64, 200})
      for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
        if (dtype == DType::bfloat16 && device == Device{}) continue;
        const Tensor like = empty({1}, dtype, device);
        const Tensor w = orthogonal_directions({210, width}, {on(like, test_stream(302)), 2}, dtype, device);
        EXPECT_EQ(
            w.to_vector<double>(),
            orthogonal_directions({210, width}, {test_stream(302), 2}, DType::float64).to_vector<double>());
      }
}

struct Side {
  FeatureSide side;
  double scale, stabilizer;
};

/// Exponents less their shift, which is rounded to float32 by definition.
Array shifted_exponents(const Array& x, const Array& w, const SequenceLayout& layout, const Side& o) {
  const std::int64_t heads = x.size(1), width = x.size(2), count = w.size(0);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  Array out({x.size(0), heads, count});
  for (std::int64_t row = 0; row < x.size(0) * heads; ++row)
    for (std::int64_t f = 0; f < count; ++f) {
      double dot = 0, square = 0;
      for (std::int64_t c = 0; c < width; ++c)
        dot += w.at(f, c) * x[row * width + c], square += x[row * width + c] * x[row * width + c];
      out[row * count + f] = o.scale * dot - o.scale * o.scale / 2 * square;
    }
  const auto shift = [&](const std::vector<std::int64_t>& rows) {
    double most = -INFINITY;
    for (const std::int64_t row : rows)
      for (std::int64_t f = 0; f < count; ++f) most = std::max(most, out[row * count + f]);
    for (const std::int64_t row : rows)
      for (std::int64_t f = 0; f < count; ++f) out[row * count + f] -= static_cast<float>(most);
  };
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<std::int64_t> rows;
      for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t) rows.push_back(t * heads + h);
      if (o.side == FeatureSide::key) shift(rows);
      for (const std::int64_t row : rows)
        if (o.side == FeatureSide::query) shift({row});
    }
  return out;
}

Array feature_gradient(const Array& x, const Array& dy, const Array& w, const SequenceLayout& layout,
                       const Side& o) {
  const std::int64_t width = x.size(2), count = w.size(0);
  const Array exponents = shifted_exponents(x, w, layout, o);
  Array dx(x.shape);
  for (std::int64_t row = 0; row < x.size(0) * x.size(1); ++row)
    for (std::int64_t f = 0; f < count; ++f) {
      const double slope = dy[row * count + f] * std::exp(exponents[row * count + f]);
      for (std::int64_t c = 0; c < width; ++c) {
        dx[row * width + c] += o.scale * slope * w.at(f, c);
        if (o.side == FeatureSide::key) dx[row * width + c] -= o.scale * o.scale * slope * x[row * width + c];
      }
    }
  return dx;
}

TEST(PositiveFeatures, both_sides) {
  std::vector<OpCase> cases;
  for (const std::vector<int>& lengths : {std::vector{1}, std::vector{70, 0, 3}})
    for (const auto& [width, count] : {std::pair{1, 1}, std::pair{5, 7}, std::pair{16, 24}, std::pair{72, 136}})
      for (const Side o : {Side{FeatureSide::query, 0.5, 1e-3}, Side{FeatureSide::key, 0.4, 0.1}}) {
        const SequenceLayout layout = layout_of(lengths, 100);
        const Array w = array_of(directions_of(count, width, 303));
        const double scale = o.scale / std::sqrt(std::sqrt(static_cast<double>(width)));
        const Side options{o.side, scale, o.stabilizer};
        cases.push_back({.name = format_text("positive_features of {}, width {}, {} directions, keys: {}",
                                             lengths, width, count, o.side == FeatureSide::key),
                         .inputs = {normal_array({layout.tokens(), 2, width}, 304)},
                         .function = one_result([=](auto x) {
                           return positive_features(x[0], tensor_of(w, x[0].dtype(), x[0].device()),
                                                    on(x[0], layout),
                                                    {options.side, options.scale, options.stabilizer});
                         }),
                         .reference = one_array([=](const Arrays& x) {
                           return mapped(shifted_exponents(x[0], w, layout, options),
                                         [=](double e) { return std::exp(e) + options.stabilizer; });
                         }),
                         .reduction_length = 4 * (width + count),
                         .gradient = [=](const Arrays& x, const Arrays& dy) {
                           return Arrays{feature_gradient(x[0], dy[0], w, layout, options)};
                         }});
      }
  check(cases);
}

TEST(PositiveFeatures, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32), w = zeros({8, 4}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] {
                         positive_features(x, zeros({8, 5}, DType::float32), layout, {});
                       }),
                       "positive_features: x [2, heads, width] needs directions [features, width]"));
  EXPECT_TRUE(mentions(thrown_error([&] { positive_features(x, w, layout, {.stabilizer = -1}); }),
                       "positive_features: the stabilizer must be at least 0, got -1"));
  EXPECT_TRUE(mentions(thrown_error([&] { orthogonal_directions({4}, {test_stream(1)}, DType::float32); }),
                       "orthogonal_directions: the shape must be [directions, width]"));
}

}  // namespace
}  // namespace tern::test
