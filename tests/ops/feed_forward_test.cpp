#include <numbers>

#include "support/devices.h"
#include "support/dropout_reference.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// x w^T + bias.
Array affine_rows(const Array& x, const Array& weight, const Array& bias) {
  Array y({x.size(0), weight.size(0)});
  for (std::int64_t r = 0; r < y.size(0); ++r)
    for (std::int64_t o = 0; o < y.size(1); ++o) {
      y.at(r, o) = bias[o];
      for (std::int64_t i = 0; i < x.size(1); ++i) y.at(r, o) += x.at(r, i) * weight.at(o, i);
    }
  return y;
}

Array feed_forward_reference(const Arrays& x, const Array& factors) {
  Array hidden = affine_rows(x[0], x[1], x[2]);
  for (std::int64_t i = 0; i < hidden.count(); ++i)
    hidden[i] *= factors[i] * 0.5 * std::erfc(-hidden[i] / std::numbers::sqrt2);
  return affine_rows(hidden, x[3], x[4]);
}

/// 64 and 128 are the widths of the Long Range Arena's models, which have kernels of their own on CUDA.
TEST(FeedForward, block_with_and_without_dropout) {
  std::vector<std::array<std::int64_t, 3>> sizes{{1, 1, 1}, {5, 3, 7}, {37, 16, 40}, {130, 64, 128}, {0, 3, 4}};
  if (cuda_devices() > 0) sizes.push_back({8600, 64, 128});  // several tiles for each block of a large GPU
  std::vector<OpCase> cases;
  for (const auto& [rows, width, hidden] : sizes)
    for (const double rate : {0.0, 0.3}) {
      const SequenceLayout layout = layout_of({static_cast<int>(rows)}, 10000);
      const DropoutOptions options{rate, test_stream(11)};
      const Array factors = dropout_factors({rows, hidden}, layout.token_rows(), options);
      const double spread = 1 / std::sqrt(static_cast<double>(width));
      cases.push_back(
          {.name = format_text("feed_forward {} x {} x {} at {}", rows, width, hidden, rate),
           .inputs = {normal_array({rows, width}, 150), uniform_array({hidden, width}, 151, -spread, spread),
                      uniform_array({hidden}, 152), uniform_array({width, hidden}, 153, -spread, spread),
                      uniform_array({width}, 154)},
           .function = one_result([=](auto x) {
             return feed_forward(x[0], {x[1], x[2], x[3], x[4]}, on(x[0], layout.token_rows()),
                                 on(x[0], options));
           }),
           .reference = one_array([=](const Arrays& x) { return feed_forward_reference(x, factors); }),
           .parameters = {2, 4},
           .reduction_length = rows * width + hidden,
           .is_empty = rows == 0});
    }
  check(cases);
}

TEST(FeedForward, mistakes_are_named) {
  const Tensor x = zeros({2, 3}, DType::float32), up = zeros({5, 3}, DType::float32),
               up_bias = zeros({5}, DType::float32), down_bias = zeros({3}, DType::float32);
  const RowCoordinates rows = layout_of({2}, 2).token_rows();
  EXPECT_TRUE(mentions(thrown_error([&] {
                         feed_forward(x, {up, up_bias, up, down_bias}, rows, {});
                       }),
                       "feed_forward: x [rows, width] needs"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         feed_forward(x, {up, up_bias, zeros({3, 5}, DType::float64), down_bias}, rows, {});
                       }),
                       "feed_forward: weights must be float32"));
}

}  // namespace
}  // namespace tern::test
