#include <limits>

#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// f over the entries of `axis`, for every other index.
Array reduced(const Array& x, int axis, const std::function<double(const std::vector<double>&)>& f) {
  std::int64_t outer = 1, inner = 1;
  std::vector<std::int64_t> kept;
  for (int i = 0; i < x.shape.rank(); ++i) {
    if (i != axis) kept.push_back(x.shape[i]);
    (i < axis ? outer : inner) *= i == axis ? 1 : x.shape[i];
  }
  Array y{Shape(kept)};
  for (std::int64_t o = 0; o < outer; ++o)
    for (std::int64_t i = 0; i < inner; ++i) {
      std::vector<double> entries;
      for (std::int64_t l = 0; l < x.shape[axis]; ++l)
        entries.push_back(x[(o * x.shape[axis] + l) * inner + i]);
      y[o * inner + i] = f(entries);
    }
  return y;
}

double total(const std::vector<double>& x) {
  double out = 0;
  for (const double value : x) out += value;
  return out;
}
double average(const std::vector<double>& x) { return total(x) / static_cast<double>(x.size()); }
double largest(const std::vector<double>& x) { return *std::max_element(x.begin(), x.end()); }
double length(const std::vector<double>& x) {
  double square = 0;
  for (const double value : x) square += value * value;
  return std::sqrt(square);
}

using Reduction = Tensor (*)(const Tensor&, int);

std::vector<OpCase> cases_of(const std::string& name, Reduction op, double (*f)(const std::vector<double>&),
                             Array (*make)(const Shape&, std::uint64_t)) {
  const std::vector<std::pair<Shape, int>> sizes{{{1}, 0},       {{7}, -1},       {{3, 5}, 0},
                                                 {{3, 5}, 1},    {{2, 3, 17}, 1}, {{4097, 2}, 0},
                                                 {{2, 4097}, 1}, {{3, 1, 2}, 1}};
  std::vector<OpCase> cases;
  for (const auto& [shape, axis] : sizes) {
    const int positive = axis < 0 ? axis + shape.rank() : axis;
    cases.push_back(
        {.name = format_text("{} {} over {}", name, shape, axis),
         .inputs = {make(shape, 71)},
         .function = one_result([op, axis](auto x) { return op(x[0], axis); }),
         .reference = one_array([f, positive](const Arrays& x) { return reduced(x[0], positive, f); }),
         .reduction_length = shape[positive]});
  }
  return cases;
}

TEST(Reduce, sum_mean_max_norm) {
  check(cases_of("sum", static_cast<Reduction>(sum), total, normal_array));
  check(cases_of("mean", mean, average, normal_array));
  check(cases_of("max", max, largest, spread_array));
  check(cases_of("norm", norm, length, spread_array));
}

TEST(Reduce, sum_of_all) {
  std::vector<OpCase> cases;
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{3, 7}, Shape{3, 4099}})
    cases.push_back({.name = format_text("sum of all {}", shape),
                     .inputs = {uniform_array(shape, 72, 0, 1)},
                     .function = one_result([](auto x) { return sum(x[0]); }),
                     .reference = one_array([](const Arrays& x) { return Array(Shape{}, total(x[0].values)); }),
                     .reduction_length = shape.count()});
  check(cases);
}

TEST(Reduce, empty_axes) {
  EXPECT_EQ(sum(zeros({0, 3}, DType::float32), 0).to_vector<float>(), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(sum(zeros({0, 3}, DType::float32)).item(), 0);
  EXPECT_EQ(sum(zeros({3, 0}, DType::float32), 0).shape(), (Shape{0}));
  EXPECT_TRUE(mentions(thrown_error([] { mean(zeros({0, 3}, DType::float32), 0); }), "mean: axis 0"));
  EXPECT_TRUE(mentions(thrown_error([] { max(zeros({3, 0}, DType::float32), 1); }), "max: axis 1"));
}

TEST(Reduce, max_gives_its_gradient_to_the_first_of_equals) {
  const Tensor x = leaf(from_vector(std::vector<float>{1, 4, 4, 4, 2, 2}, {2, 3}));
  const Tensor y = max(x, 1);
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{4, 4}));
  backward(y);
  EXPECT_EQ(gradient_of(x).to_vector<float>(), (std::vector<float>{0, 1, 0, 1, 0, 0}));
}

TEST(Reduce, gradient_of_norm_at_zero_is_not_finite) {
  const Tensor x = leaf(zeros({1, 3}, DType::float64));
  backward(norm(x, 1));
  EXPECT_FALSE(std::isfinite(gradient_of(x).to_vector<double>().front()));
}

TEST(Reduce, mistakes_are_named) {
  const Tensor x = zeros({2, 3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { sum(x, 2); }), "sum: axis 2 does not exist in shape [2, 3]"));
  EXPECT_TRUE(mentions(thrown_error([&] { max(x, -3); }), "max: axis -3"));
  EXPECT_TRUE(
      mentions(thrown_error([&] { sum(zeros({2}, DType::int64), 0); }), "sum: the input must be floating"));
}

}  // namespace
}  // namespace tern::test
