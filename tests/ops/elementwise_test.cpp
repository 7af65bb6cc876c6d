#include <limits>
#include <numbers>

#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

const std::vector<Shape> shapes{{1}, {7}, {3, 5}, {2, 3, 17}, {8193}, {}};

using Unary = Tensor (*)(const Tensor&);

std::vector<OpCase> unary_cases(const std::string& name, Unary op, double (*f)(double), double low,
                                double high) {
  std::vector<OpCase> cases;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    cases.push_back({.name = format_text("{} {}", name, shapes[i]),
                     .inputs = {uniform_array(shapes[i], 10 + i, low, high)},
                     .function = one_result([op](auto x) { return op(x[0]); }),
                     .reference = one_array([f](const Arrays& x) { return mapped(x[0], f); })});
  cases.push_back({.name = name + " empty",
                   .inputs = {Array({0, 3})},
                   .function = one_result([op](auto x) { return op(x[0]); }),
                   .reference = one_array([](const Arrays& x) { return x[0]; }),
                   .is_empty = true});
  return cases;
}

double normal_cumulative(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

TEST(Elementwise, unary_functions) {
  check(unary_cases("exp", exp, std::exp, -4, 4));
  check(unary_cases("log", log, std::log, 0.3, 4));
  check(unary_cases("sqrt", sqrt, std::sqrt, 0.3, 4));
  check(unary_cases(
      "square", square, [](double x) { return x * x; }, -2, 2));
  check(unary_cases(
      "reciprocal", reciprocal, [](double x) { return 1 / x; }, 0.4, 3));
  check(unary_cases("tanh", tanh, std::tanh, -3, 3));
  check(unary_cases(
      "sigmoid", sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -6, 6));
}

TEST(Elementwise, gelu_is_the_erf_form) {
  const auto by_definition = [](double x) { return x * normal_cumulative(x); };
  check(unary_cases("gelu", gelu, by_definition, -1, 5));
  check({{.name = "gelu with both tails",
          .inputs = {uniform_array({2, 203}, 30, -9, 9)},
          .function = one_result([](auto x) { return gelu(x[0]); }),
          .reference = one_array([=](const Arrays& x) { return mapped(x[0], by_definition); })}});
}

TEST(Elementwise, relu_away_from_its_kink) {
  std::vector<OpCase> cases;
  for (const Shape& shape : {Shape{1}, Shape{7}, Shape{3, 17}})
    cases.push_back({.name = "relu",
                     .inputs = {spread_array(shape, 31)},
                     .function = one_result([](auto x) { return relu(x[0]); }),
                     .reference = one_array([](const Arrays& x) {
                       return mapped(x[0], [](double v) { return std::max(v, 0.0); });
                     })});
  check(cases);
}

TEST(Elementwise, extreme_arguments_stay_right) {
  const std::vector<double> x{-1e4, -104, -88, 0, 80, 1e4};
  for (const DType dtype : {DType::float32, DType::float64}) {
    const Tensor values = cast(from_vector(x, {6}), dtype);
    const std::vector<double> s = sigmoid(values).to_vector<double>(), g = gelu(values).to_vector<double>(),
                              e = exp(values).to_vector<double>();
    EXPECT_LT(s[0], 1e-37);
    EXPECT_EQ(s[5], 1);
    EXPECT_EQ(g[0], 0);
    EXPECT_EQ(g[5], 1e4);
    EXPECT_LT(e[1], 1e-37);
    EXPECT_EQ(e[0], 0);
    EXPECT_EQ(e[3], 1);
    EXPECT_EQ(e[5], std::numeric_limits<double>::infinity());
    EXPECT_NEAR(e[4] / std::exp(80.0), 1, 1e-5);
  }
}

using Binary = Tensor (*)(const Tensor&, const Tensor&);

/// Equal shapes, and a second operand that is repeated over the leading axes.
std::vector<OpCase> binary_cases(const std::string& name, Binary op, double (*f)(double, double)) {
  const std::vector<std::pair<Shape, Shape>> pairs{{{1}, {1}},       {{3, 5}, {3, 5}},        {{2, 3, 7}, {7}},
                                                   {{5, 3}, {}},     {{4, 2, 3, 5}, {3, 5}},  {{8193}, {8193}},
                                                   {{4099, 3}, {3}}, {{2, 3, 17}, {2, 3, 17}}};
  const auto reference = one_array([f](const Arrays& x) {
    Array y = x[0];
    for (std::int64_t i = 0; i < y.count(); ++i) y[i] = f(x[0][i], x[1][i % x[1].count()]);
    return y;
  });
  std::vector<OpCase> cases;
  for (const auto& [a, b] : pairs)
    cases.push_back(
        {.name = format_text("{} {} {}", name, a, b),
         .inputs = {uniform_array(a, 50, -2, 2), uniform_array(b, 51, 0.6, 2)},
         .function = one_result([op](auto x) { return op(x[0], x[1]); }),
         .reference = reference,
         .reduction_length = a.count() / std::max<std::int64_t>(b.count(), 1),
         .widening = a == b ? 1.0 : 2.0,
         .reason = a == b ? "" : "the gradient of a repeated operand sums terms that were rounded"});
  cases.push_back({.name = name + " of no rows",
                   .inputs = {Array({0, 3}), uniform_array({3}, 52)},
                   .function = one_result([op](auto x) { return op(x[0], x[1]); }),
                   .reference = one_array([](const Arrays& x) { return x[0]; }),
                   .is_empty = true});
  return cases;
}

TEST(Elementwise, binary_functions) {
  check(binary_cases("add", add, [](double a, double b) { return a + b; }));
  check(binary_cases("subtract", subtract, [](double a, double b) { return a - b; }));
  check(binary_cases("multiply", multiply, [](double a, double b) { return a * b; }));
  check(binary_cases("divide", divide, [](double a, double b) { return a / b; }));
}

TEST(Elementwise, both_operands_may_be_one_tensor) {
  check(
      {{.name = "x * x",
        .inputs = {normal_array({3, 5}, 3)},
        .function = one_result([](auto x) { return multiply(x[0], x[0]); }),
        .reference = one_array([](const Arrays& x) { return mapped(x[0], [](double v) { return v * v; }); })}});
}

TEST(Elementwise, affine) {
  check({{.name = "affine",
          .inputs = {normal_array({3, 7}, 5)},
          .function = one_result([](auto x) { return affine(x[0], -2.5, 0.75); }),
          .reference = one_array(
              [](const Arrays& x) { return mapped(x[0], [](double v) { return -2.5 * v + 0.75; }); })}});
}

TEST(Elementwise, cast_keeps_values_and_returns_the_gradient_in_the_source_type) {
  const Tensor x = leaf(from_vector(std::vector<float>{1.5f, -2.25f, 3}, {3}));
  const Tensor y = cast(x, DType::float64);
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{1.5, -2.25, 3}));
  backward(sum(multiply(y, from_vector(std::vector<double>{2, 3, 4}, {3}))));
  EXPECT_EQ(gradient_of(x).to_vector<float>(), (std::vector<float>{2, 3, 4}));
  EXPECT_EQ(cast(y, DType::int32).to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, -2, 3}));
  EXPECT_EQ(cast(from_vector(std::vector<float>{1 + 0x1p-9f}, {1}), DType::bfloat16).item(), 1);
}

TEST(Elementwise, mistakes_are_named) {
  const Tensor a = zeros({2, 3}, DType::float32), integers = zeros({3}, DType::int32);
  EXPECT_TRUE(mentions(thrown_error([&] { add(a, zeros({2}, DType::float32)); }),
                       "add: the second shape must equal the first or end it, got [2, 3] and [2]"));
  EXPECT_TRUE(mentions(thrown_error([&] { multiply(a, zeros({3}, DType::float64)); }), "multiply: "));
  EXPECT_TRUE(mentions(thrown_error([&] { gelu(integers); }), "gelu: the input must be floating, got int32"));
  EXPECT_TRUE(mentions(thrown_error([&] { exp(Tensor()); }), "exp: "));
}

}  // namespace
}  // namespace tern::test
