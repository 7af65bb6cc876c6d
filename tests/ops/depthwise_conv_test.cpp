#include "support/devices.h"
#include "support/golden.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// y_i = sum over u of weight[u] x at position(i) + u - window / 2, from the positions of all pairs.
Array convolved(const Arrays& in, const SequenceLayout& layout) {
  const Array &x = in[0], &weight = in[1];
  const std::int64_t heads = x.size(1), width = x.size(2), window = weight.size(1);
  const auto offsets = layout.offsets.to_vector<std::int32_t>(),
             position = layout.position.to_vector<std::int32_t>();
  Array y(x.shape);
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t i = offsets[s]; i < offsets[s + 1]; ++i)
      for (std::int64_t j = offsets[s]; j < offsets[s + 1]; ++j) {
        const std::int64_t u =
            position[static_cast<std::size_t>(j)] - position[static_cast<std::size_t>(i)] + window / 2;
        for (std::int64_t h = 0; u >= 0 && u < window && h < heads; ++h)
          for (std::int64_t c = 0; c < width; ++c)
            y[(i * heads + h) * width + c] += weight.at(h, u) * x[(j * heads + h) * width + c];
      }
  return y;
}

TEST(DepthwiseConv, windows_lengths_and_gaps) {
  std::vector<OpCase> cases;
  for (const int gap : {1, 2, 3})
    for (const std::int64_t window : {1, 3, 33})
      for (const std::vector<int>& lengths : {std::vector{1}, std::vector{3, 0, 17}, std::vector{35, 2}}) {
        const SequenceLayout layout = layout_of(lengths, 200, gap);
        cases.push_back(
            {.name = format_text("depthwise_conv of {}, gap {}, window {}", lengths, gap, window),
             .inputs = {normal_array({layout.tokens(), 2, 5}, 140), normal_array({2, window}, 141)},
             .function = one_result([layout](auto x) { return depthwise_conv(x[0], x[1], on(x[0], layout)); }),
             .reference = one_array([layout](const Arrays& x) { return convolved(x, layout); }),
             .parameters = {1},
             .reduction_length = 37 * 5});
      }
  const SequenceLayout none = layout_of({0}, 4);
  cases.push_back(
      {.name = "depthwise_conv of no tokens",
       .inputs = {Array({0, 2, 3}), normal_array({2, 3}, 142)},
       .function = one_result([none](auto x) { return depthwise_conv(x[0], x[1], on(x[0], none)); }),
       .reference = one_array([](const Arrays& x) { return x[0]; }),
       .parameters = {1},
       .is_empty = true});
  check(cases);
}

TEST(DepthwiseConv, matches_golden_values) {
  const Golden golden("functions");
  const std::string prefix = "head_convolution.";
  const SequenceLayout layout =
      make_layout(golden.integers(prefix + "offsets"), golden.integers(prefix + "position"), {0, 1}, 11);
  const Tensor value = leaf(golden.tensor(prefix + "value")), weight = leaf(golden.tensor(prefix + "weight"));
  const Tensor y = depthwise_conv(value, weight, layout), dy = golden.tensor(prefix + "dy");
  backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(difference(y.to_vector<double>(), golden.values(prefix + "y"), 1e-12), "");
  EXPECT_EQ(difference(gradient_of(value).to_vector<double>(), golden.values(prefix + "dvalue"), 1e-12), "");
  EXPECT_EQ(difference(gradient_of(weight).to_vector<double>(), golden.values(prefix + "dweight"), 1e-12), "");
}

TEST(DepthwiseConv, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] {
                         depthwise_conv(x, zeros({3, 2}, DType::float32), layout);
                       }),
                       "depthwise_conv: needs x [2, heads, width] and weight [heads, odd window]"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         depthwise_conv(x, zeros({2, 3}, DType::float32), layout);
                       }),
                       "depthwise_conv: "));
}

}  // namespace
}  // namespace tern::test
