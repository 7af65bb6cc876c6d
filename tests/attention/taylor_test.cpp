// Based's linear attention against sums over all pairs (Arora et al. 2024, arXiv 2402.18668).
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 12, .max_length = 64};

/// The parameter that the mechanism of support/attention_contract.h has: drawn from the same seed and path.
Array projection(const char* name, std::int64_t width) {
  static constexpr std::uint32_t step = 1;
  ParameterStore store(17, &step, DType::float64);
  return array_of(Scope(store)
                      .child("attention")
                      .parameter(name, {shape.heads, shape.head_width, width}, uniform(1 / std::sqrt(12.0)))
                      .value);
}

/// x_t^T of each head's projection, in rows as wide as the head's; the columns behind are zero.
Array projected(const Array& x, const Array& w) {
  const std::int64_t heads = x.size(1), depth = x.size(2), width = w.size(2);
  Array out(x.shape);
  for (std::int64_t t = 0; t < x.size(0); ++t)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < depth; ++i)
        for (std::int64_t j = 0; j < width; ++j)
          out[(t * heads + h) * depth + j] += x[(t * heads + h) * depth + i] * w[(h * depth + i) * width + j];
  return out;
}

TEST(Taylor, weights_are_the_series_of_the_exponential) {
  for (const std::int64_t width : {4, 12}) {
    const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
    const std::vector<Tensor> rows = random_rows(layout, shape);
    const Weights weights = [=](std::vector<double> row) {
      double total = 0;
      for (double& w : row) {
        w /= std::sqrt(static_cast<double>(width));
        total += w = 1 + w + w * w / 2;
      }
      for (double& w : row) w /= total;
      return row;
    };
    const Array expected =
        attended({projected(array_of(rows[0]), projection("query.weight", width)),
                  projected(array_of(rows[1]), projection("key.weight", width)), array_of(rows[2])},
                 layout, weights);
    const Mechanism mechanism({"taylor", {format_text("feature_width={}", width)}}, shape);
    EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), expected.values, 1e-12), "");
  }
}

/// By central differences along a random direction of each projection.
TEST(Taylor, its_projections_learn) {
  static constexpr std::uint32_t step = 1;
  ParameterStore store(17, &step, DType::float64);
  const AttentionKind& kind = find_attention_kind("taylor");
  const auto attention = kind.build(Choice(attention_choices(), "taylor"), Scope(store), shape);
  const SequenceLayout layout = layout_of({9, 4}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto loss = [&] { return sum(square(attention->forward({rows[0], rows[1], rows[2], layout, true}))); };
  backward(loss());
  for (const Parameter& parameter : store.parameters()) {
    const Array direction = normal_array(parameter.value.shape(), 320), start = array_of(parameter.value),
                gradient = array_of(gradient_of(parameter.value));
    const auto at = [&](double distance) {
      Array moved = start;
      for (std::int64_t i = 0; i < moved.count(); ++i) moved[i] += distance * direction[i];
      const NoGradientScope quiet;
      copy(tensor_of(moved, DType::float64), parameter.value);
      return loss().to_vector<double>()[0];
    };
    double expected = 0;
    for (std::int64_t i = 0; i < gradient.count(); ++i) expected += gradient[i] * direction[i];
    EXPECT_NE(expected, 0);
    EXPECT_NEAR((at(1e-5) - at(-1e-5)) / 2e-5, expected, 1e-6 * std::abs(expected)) << parameter.path;
    at(0);
  }
}

}  // namespace
}  // namespace tern::test
