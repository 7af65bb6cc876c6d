#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

TEST(EluPlusOne, values_and_slopes) {
  std::vector<OpCase> cases;
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{3, 40}, Shape{5, 2, 24}, Shape{2, 2, 2, 3}})
    cases.push_back({.name = format_text("elu_plus_one of {}", shape),
                     .inputs = {spread_array(shape, 169)},
                     .function = one_result([](auto x) { return elu_plus_one(x[0]); }),
                     .reference = one_array([](const Arrays& x) {
                       return mapped(x[0], [](double v) { return v > 0 ? v + 1 : std::exp(v); });
                     })});
  check(cases);
  EXPECT_EQ(elu_plus_one(zeros({0, 2, 3}, DType::float32)).shape(), (Shape{0, 2, 3}));
}

Array taylor_features_of(const Array& x) {
  const std::int64_t width = x.size(2), rows = x.size(0) * x.size(1), count = taylor_feature_count(width);
  const double root = std::sqrt(static_cast<double>(width));
  Array out({x.size(0), x.size(1), count});
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t place = r * count;
    out[place++] = 1;
    for (std::int64_t i = 0; i < width; ++i) out[place++] = x[r * width + i] / std::sqrt(root);
    for (std::int64_t i = 0; i < width; ++i)
      for (std::int64_t j = i; j < width; ++j)
        out[place++] = x[r * width + i] * x[r * width + j] / root / (i == j ? std::sqrt(2.0) : 1);
  }
  return out;
}

TEST(TaylorFeatures, are_the_terms_of_the_series) {
  std::vector<OpCase> cases;
  for (const std::int64_t width : {1, 3, 16, 40})
    for (const std::int64_t tokens : {1, 37})
      cases.push_back({.name = format_text("taylor_features of {} tokens, width {}", tokens, width),
                       .inputs = {normal_array({tokens, 2, width}, 310)},
                       .function = one_result([](auto x) { return taylor_features(x[0]); }),
                       .reference = one_array([](const Arrays& x) { return taylor_features_of(x[0]); }),
                       .reduction_length = width});
  check(cases);
  EXPECT_EQ(taylor_features(zeros({0, 2, 3}, DType::float32)).shape(), (Shape{0, 2, 16}));
}

TEST(TaylorFeatures, have_the_product_of_the_series) {
  const Array q = normal_array({5, 1, 16}, 311), k = normal_array({5, 1, 16}, 312);
  const Array a = array_of(taylor_features(tensor_of(q, DType::float64))),
              b = array_of(taylor_features(tensor_of(k, DType::float64)));
  for (std::int64_t row = 0; row < 5; ++row) {
    double s = 0, product = 0;
    for (std::int64_t c = 0; c < 16; ++c) s += q[row * 16 + c] * k[row * 16 + c] / 4;
    for (std::int64_t f = 0; f < a.size(2); ++f) product += a[row * a.size(2) + f] * b[row * a.size(2) + f];
    EXPECT_NEAR(product, 1 + s + s * s / 2, 1e-12 * (1 + s * s));
  }
}

TEST(TaylorFeatures, mistakes_are_named) {
  EXPECT_TRUE(mentions(thrown_error([] {
                         taylor_features(zeros({2, 1, 65}, DType::float32));
                       }),
                       "taylor_features: x must be [tokens, heads, width] with at most 64 columns"));
}

}  // namespace
}  // namespace tern::test
