#include <algorithm>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// y[t, o, j] = bias[o] + sum of weight[o, i, a, b] x[t + a - 1, i, j + b - 1], border by border; of relu(x)
/// with `of_relu`.
Array convolved(const Arrays& in, const SequenceLayout& layout, bool of_relu = false) {
  const Array &x = in[0], &weight = in[1], &bias = in[2];
  const std::int64_t inputs = x.size(1), width = x.size(2), outputs = weight.size(0);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  const auto value_of = [of_relu](double value) { return of_relu ? std::max(value, 0.0) : value; };
  Array y({x.size(0), outputs, width});
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t)
      for (std::int64_t out = 0; out < outputs * width; ++out) {
        const std::int64_t o = out / width, j = out % width;
        double& total = y[(t * outputs + o) * width + j];
        total = bias[o];
        for (std::int64_t term = 0; term < inputs * 9; ++term) {
          const std::int64_t i = term / 9, row = t + term % 9 / 3 - 1, column = j + term % 3 - 1;
          if (row >= offsets[s] && row < offsets[s + 1] && column >= 0 && column < width)
            total += weight[(o * inputs + i) * 9 + term % 9] * value_of(x[(row * inputs + i) * width + column]);
        }
      }
  return y;
}

/// Differences shall not cross the bend of relu.
Array away_from_zero(Array x) {
  for (double& value : x.values) value += value < 0 ? -0.1 : 0.1;
  return x;
}

struct Channels {
  std::int64_t inputs, outputs, width;
};
OpCase case_of(const std::vector<int>& lengths, const Channels& channels, bool of_relu = false) {
  const SequenceLayout layout = layout_of(lengths, 200);
  return {
      .name = format_text("grid_conv of {}, {} -> {} channels, {} columns, {}", lengths, channels.inputs,
                          channels.outputs, channels.width, of_relu ? "of relu" : "plain"),
      .inputs = {away_from_zero(normal_array({layout.tokens(), channels.inputs, channels.width}, 220)),
                 normal_array({channels.outputs, channels.inputs, 3, 3}, 221),
                 normal_array({channels.outputs}, 222)},
      .function = one_result([=](auto x) { return grid_conv(x[0], x[1], x[2], on(x[0], layout), of_relu); }),
      .reference = one_array([=](const Arrays& x) { return convolved(x, layout, of_relu); }),
      .parameters = {1, 2},
      .reduction_length = 9 * channels.inputs + layout.tokens() * channels.width};
}

/// Outputs that fill the kernels' groups and that do not; pictures of one token and of one column. Rows of 8
/// columns lie in packs, tiles have 16 channels, 8 tokens and 64 columns.
TEST(GridConv, channels_columns_and_ragged_lengths) {
  std::vector<OpCase> cases;
  for (const std::vector<int>& lengths : {std::vector{1}, std::vector{3, 0, 2}, std::vector{35, 1}})
    for (const Channels& channels : {Channels{1, 1, 1}, Channels{2, 3, 2}, Channels{3, 5, 7}})
      cases.push_back(case_of(lengths, channels));
  cases.push_back(case_of({4, 3}, {4, 4, 33}));
  cases.push_back(case_of({2}, {18, 9, 3}));
  cases.push_back(case_of({1, 2}, {1, 1, 8}));
  cases.push_back(case_of({20, 1, 0, 9}, {4, 3, 16}));
  cases.push_back(case_of({67}, {3, 2, 72}));
  cases.push_back(case_of({3, 8}, {18, 33, 8}));
  cases.push_back(case_of({5, 2}, {16, 16, 128}));
  check(cases);
}

TEST(GridConv, takes_the_relu_of_its_input) {
  check({case_of({1}, {1, 1, 1}, true), case_of({3, 0, 2}, {3, 5, 7}, true), case_of({35, 1}, {2, 3, 2}, true),
         case_of({1, 2}, {1, 1, 8}, true), case_of({67}, {3, 2, 72}, true), case_of({3, 8}, {18, 33, 8}, true),
         case_of({5, 2}, {16, 16, 128}, true)});
}

TEST(GridConv, a_bias_may_be_left_out) {
  const SequenceLayout layout = layout_of({3, 1}, 4);
  check({{.name = "grid_conv without a bias",
          .inputs = {normal_array({4, 2, 5}, 228), normal_array({3, 2, 3, 3}, 229)},
          .function = one_result([layout](auto x) { return grid_conv(x[0], x[1], {}, on(x[0], layout)); }),
          .reference = one_array([layout](const Arrays& x) {
            return convolved({x[0], x[1], Array({3})}, layout);
          }),
          .parameters = {1},
          .reduction_length = 38}});
}

TEST(GridConv, of_no_tokens_is_empty) {
  const SequenceLayout none = layout_of({0}, 4);
  check({{.name = "grid_conv of no tokens",
          .inputs = {Array({0, 2, 3}), normal_array({2, 2, 3, 3}, 223), normal_array({2}, 224)},
          .function = one_result([none](auto x) { return grid_conv(x[0], x[1], x[2], on(x[0], none)); }),
          .reference = one_array([](const Arrays& x) { return x[0]; }),
          .parameters = {1, 2},
          .is_empty = true}});
}

/// A sequence ends before the unused rows of a batch, and they get zeros and no gradient.
void expect_zeros_behind_sequences(DType dtype, Device device) {
  const SequenceLayout exact = layout_of({3, 4}, 8),
                       roomy =
                           make_layout(arrange_sequences({0, 3, 7}, {0, 1, 2, 0, 1, 2, 3}, {40, 41}, 8, 11));
  const Tensor x = leaf(tensor_of(normal_array({11, 2, 8}, 225), dtype, device)),
               weight = leaf(tensor_of(normal_array({3, 2, 3, 3}, 226), DType::float32, device)),
               bias = leaf(tensor_of(normal_array({3}, 227), DType::float32, device));
  const Tensor y = grid_conv(x, weight, bias, on(x, roomy)),
               plain = grid_conv(slice(x.detach(), 0, 0, 7), weight, bias, on(x, exact));
  EXPECT_EQ(array_of(slice(y.detach(), 0, 0, 7)).values, array_of(plain).values) << dtype;
  EXPECT_EQ(array_of(slice(y.detach(), 0, 7, 4)).values, std::vector<double>(96, 0)) << dtype;
  backward(sum(y));
  EXPECT_EQ(array_of(slice(gradient_of(x), 0, 7, 4)).values, std::vector<double>(64, 0)) << dtype;
  EXPECT_EQ(array_of(gradient_of(bias)).values, std::vector<double>(3, 56)) << dtype;
}

TEST(GridConv, unused_capacity_is_zero) {
  for (const Device device : test_devices()) {
    expect_zeros_behind_sequences(DType::float32, device);
    if (device.type == DeviceType::cuda) expect_zeros_behind_sequences(DType::bfloat16, device);
  }
}

TEST(GridConv, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32), bias = zeros({5}, DType::float32);
  for (const Shape& shape : {Shape{5, 2, 3, 3}, Shape{5, 3, 3, 2}, Shape{5, 3, 9}})
    EXPECT_TRUE(mentions(thrown_error([&] { grid_conv(x, zeros(shape, DType::float32), bias, layout); }),
                         "grid_conv: needs x [2, channels, columns] and weight [outputs, channels, 3, 3]"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         grid_conv(x, zeros({4, 3, 3, 3}, DType::float32), bias, layout);
                       }),
                       "grid_conv: the bias must be float32 [4]"));
}

}  // namespace
}  // namespace tern::test
