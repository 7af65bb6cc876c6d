#include "support/devices.h"
#include "support/dropout_reference.h"
#include "support/golden.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr double epsilon = 1e-5;

Array layer_norm_reference(const Array& x, const Array& weight, const Array& bias) {
  Array y = x;
  const std::int64_t width = x.size(-1);
  for (std::int64_t r = 0; r < x.count() / width; ++r) {
    double mean = 0, variance = 0;
    for (std::int64_t i = 0; i < width; ++i) mean += x[r * width + i] / static_cast<double>(width);
    for (std::int64_t i = 0; i < width; ++i)
      variance += std::pow(x[r * width + i] - mean, 2) / static_cast<double>(width);
    for (std::int64_t i = 0; i < width; ++i)
      y[r * width + i] = (x[r * width + i] - mean) / std::sqrt(variance + epsilon) * weight[i] + bias[i];
  }
  return y;
}

TEST(LayerNorm, rows_of_many_widths) {
  std::vector<OpCase> cases;
  for (const Shape& shape :
       {Shape{3}, Shape{1, 7}, Shape{5, 17}, Shape{2, 3, 64}, Shape{30, 768}, Shape{513, 3}, Shape{0, 4}}) {
    const std::int64_t width = shape[shape.rank() - 1];
    cases.push_back(
        {.name = format_text("layer_norm {}", shape),
         .inputs = {uniform_array(shape, 110, -2, 3), uniform_array({width}, 111, 0.5, 2),
                    normal_array({width}, 112)},
         .function = one_result([](auto x) { return layer_norm(x[0], x[1], x[2], epsilon); }),
         .reference = one_array([](const Arrays& x) { return layer_norm_reference(x[0], x[1], x[2]); }),
         .parameters = {1, 2},
         .reduction_length = shape.count(),
         .is_empty = shape.count() == 0});
  }
  check(cases);
}

/// Rows of variance 0, of variance below epsilon, and with a mean far above their deviation.
TEST(LayerNorm, matches_golden_values) {
  const Golden golden("functions");
  const Tensor x = leaf(golden.tensor("layer_norm.x")), weight = leaf(golden.tensor("layer_norm.weight")),
               bias = leaf(golden.tensor("layer_norm.bias")), dy = golden.tensor("layer_norm.dy");
  const Tensor y = layer_norm(x, weight, bias);
  backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(difference(y.to_vector<double>(), golden.values("layer_norm.y"), 1e-11), "");
  EXPECT_EQ(difference(gradient_of(x).to_vector<double>(), golden.values("layer_norm.dx"), 1e-11), "");
  EXPECT_EQ(difference(gradient_of(weight).to_vector<double>(), golden.values("layer_norm.dweight"), 1e-11),
            "");
  EXPECT_EQ(difference(gradient_of(bias).to_vector<double>(), golden.values("layer_norm.dbias"), 1e-11), "");
}

TEST(ResidualDropoutNorm, both_results_and_all_gradients) {
  std::vector<OpCase> cases;
  for (const double rate : {0.0, 0.3})
    for (const Shape& shape : {Shape{1, 3}, Shape{7, 17}, Shape{70, 9}, Shape{65, 64}, Shape{0, 4}}) {
      const SequenceLayout layout = layout_of({static_cast<int>(shape[0])}, 100);
      const DropoutOptions options{rate, test_stream(5)};
      const Array factors = dropout_factors(shape, layout.token_rows(), options);
      const std::int64_t width = shape[1];
      cases.push_back({.name = format_text("residual_dropout_norm {} at {}", shape, rate),
                       .inputs = {normal_array(shape, 113), normal_array(shape, 114),
                                  uniform_array({width}, 115, 0.5, 2), normal_array({width}, 116)},
                       .function =
                           [=](std::span<const Tensor> x) {
                             const ResidualNorm y = residual_dropout_norm(
                                 x[0], x[1], on(x[0], layout.token_rows()), on(x[0], options), x[2], x[3]);
                             return std::vector{y.total, y.normalized};
                           },
                       .reference =
                           [factors](const Arrays& x) {
                             Array total = x[0];
                             for (std::int64_t i = 0; i < total.count(); ++i) total[i] += factors[i] * x[1][i];
                             return Arrays{total, layer_norm_reference(total, x[2], x[3])};
                           },
                       .parameters = {2, 3},
                       .reduction_length = shape.count(),
                       .is_empty = shape.count() == 0});
    }
  check(cases);
}

TEST(ResidualDropoutNorm, one_result_may_go_unused) {
  const SequenceLayout layout = layout_of({3}, 3);
  for (const bool uses_total : {true, false}) {
    const Tensor x = leaf(tensor_of(normal_array({3, 4}, 1), DType::float64)),
                 branch = leaf(tensor_of(normal_array({3, 4}, 2), DType::float64)),
                 weight = leaf(full({4}, 1, DType::float64)), bias = leaf(zeros({4}, DType::float64));
    const ResidualNorm y =
        residual_dropout_norm(x, branch, layout.token_rows(), {0, test_stream(1)}, weight, bias);
    backward(uses_total ? y.total : y.normalized);
    const std::vector<double> expected(12, uses_total ? 1.0 : 0.0);
    for (const Tensor& input : {x, branch}) {
      const std::vector<double> gradient = gradient_of(input).to_vector<double>();
      for (std::size_t i = 0; i < 12; ++i) EXPECT_NEAR(gradient[i], expected[i], 1e-13);
    }
    EXPECT_EQ(gradient_of(bias).to_vector<double>(), std::vector<double>(4, uses_total ? 0.0 : 3.0));
  }
}

Array unit_reference(const Array& x) {
  Array y = x;
  const std::int64_t width = x.size(-1);
  for (std::int64_t r = 0; r < x.count() / width; ++r) {
    double square = 0;
    for (std::int64_t i = 0; i < width; ++i) square += x[r * width + i] * x[r * width + i];
    for (std::int64_t i = 0; i < width; ++i) y[r * width + i] /= std::max(std::sqrt(square), 1e-12);
  }
  return y;
}

TEST(UnitRows, rows_of_many_widths) {
  std::vector<OpCase> cases;
  for (const Shape& shape : {Shape{3}, Shape{5, 2}, Shape{5, 17}, Shape{7, 3, 16}, Shape{0, 3, 4}})
    cases.push_back({.name = format_text("unit_rows {}", shape),
                     .inputs = {normal_array(shape, 117)},
                     .function = one_result([](auto x) { return unit_rows(x[0]); }),
                     .reference = one_array([](const Arrays& x) { return unit_reference(x[0]); }),
                     .reduction_length = shape[shape.rank() - 1],
                     .is_empty = shape.count() == 0});
  check(cases);
}

TEST(UnitRows, a_row_without_direction_stays_zero_and_gets_no_gradient) {
  const Tensor x = leaf(from_vector(std::vector<double>{0, 0, 3e-13, 4e-13, 3, 4}, {3, 2}));
  const Tensor y = unit_rows(x);
  const std::vector<double> values = y.to_vector<double>();
  EXPECT_EQ(values[0], 0);
  EXPECT_NEAR(values[2], 0.3, 1e-12);
  EXPECT_NEAR(values[5], 0.8, 1e-15);
  backward(y);
  const std::vector<double> gradient = gradient_of(x).to_vector<double>();
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(gradient[i], 0);
  EXPECT_NEAR(gradient[4], (1 - 0.6 * 1.4) / 5, 1e-15);
}

TEST(LayerNorm, mistakes_are_named) {
  const Tensor x = zeros({2, 3}, DType::float32), four = zeros({4}, DType::float32),
               three = zeros({3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { layer_norm(x, four, four); }),
                       "layer_norm: weight and bias must be float32 [width]"));
  const SequenceLayout layout = layout_of({2}, 2);
  EXPECT_TRUE(
      mentions(thrown_error([&] {
                 residual_dropout_norm(x, three, layout.token_rows(), {0, test_stream(1)}, three, three);
               }),
               "residual_dropout_norm: "));
  EXPECT_TRUE(mentions(thrown_error([&] { unit_rows(zeros({2, 0}, DType::float32)); }), "unit_rows: "));
}

}  // namespace
}  // namespace tern::test
