// Linear Transformer against sums over all pairs (Katharopoulos et al. 2020, arXiv 2006.16236, equations 4 and
// 7).
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 12, .max_length = 64};

Array features_of(const Array& x) {
  return mapped(x, [](double v) { return v > 0 ? v + 1 : std::exp(v); });
}

/// Weights divided by their sum plus epsilon, or all multiplied by `scale`.
Weights divided_weights(double epsilon) {
  return [epsilon](std::vector<double> row) {
    double total = epsilon;
    for (const double w : row) total += w;
    for (double& w : row) w /= total;
    return row;
  };
}
Weights scaled_weights(double scale) {
  return [scale](std::vector<double> row) {
    for (double& w : row) w *= scale;
    return row;
  };
}

std::vector<double> values(const Variant& variant, const SequenceLayout& layout) {
  return Mechanism(variant, shape)(random_rows(layout, shape), layout).to_vector<double>();
}

std::vector<double> expected(const SequenceLayout& layout, const Weights& weights) {
  const std::vector<Tensor> rows = random_rows(layout, shape);
  return attended({features_of(array_of(rows[0])), features_of(array_of(rows[1])), array_of(rows[2])}, layout,
                  weights)
      .values;
}

TEST(Linear, divides_by_the_sum_of_the_weights) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
  EXPECT_EQ(difference(values({"linear", {}}, layout), expected(layout, divided_weights(1e-6)), 1e-13), "");
  EXPECT_EQ(
      difference(values({"linear", {"epsilon=0.5"}}, layout), expected(layout, divided_weights(0.5)), 1e-13),
      "");
}

TEST(Linear, the_published_form_scales_by_the_padded_length_instead) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
  EXPECT_EQ(difference(values({"linear", {"published=true"}}, layout),
                       expected(layout, scaled_weights(1.0 / 8)), 1e-13),
            "");
}

TEST(Linear, equal_keys_give_the_mean_of_the_values) {
  const SequenceLayout layout = layout_of({30}, 64);
  std::vector<Tensor> rows = random_rows(layout, shape);
  rows[1] = full(rows[1].shape(), 0.3, DType::float64);
  const Array y = array_of(Mechanism({"linear", {"epsilon=0"}}, shape)(rows, layout)), v = array_of(rows[2]);
  for (std::int64_t c = 0; c < 24; ++c) {
    double mean = 0;
    for (std::int64_t t = 0; t < 30; ++t) mean += v[t * 24 + c] / 30;
    for (std::int64_t t = 0; t < 30; ++t) EXPECT_NEAR(y[t * 24 + c], mean, 1e-13);
  }
}

}  // namespace
}  // namespace tern::test
