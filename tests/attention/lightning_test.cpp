// Lightning attention's bidirectional form against sums over all pairs (Qin et al. 2023, arXiv 2307.14995).
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 12, .max_length = 64};

Array silu_of(const Array& x) {
  return mapped(x, [](double v) { return v / (1 + std::exp(-v)); });
}

/// Rows of all heads over the root of their mean square.
Array normalized(Array x) {
  const std::int64_t width = x.size(1) * x.size(2);
  for (std::int64_t t = 0; t < x.size(0); ++t) {
    double square = 0;
    for (std::int64_t c = 0; c < width; ++c) square += x[t * width + c] * x[t * width + c];
    for (std::int64_t c = 0; c < width; ++c) x[t * width + c] /= std::sqrt(square / static_cast<double>(width));
  }
  return x;
}

std::vector<double> expected(const std::vector<Tensor>& rows, const SequenceLayout& layout, bool published) {
  const Array value = array_of(rows[2]);
  const auto products = [](const std::vector<double>& row) { return row; };
  return normalized(attended({silu_of(array_of(rows[0])), silu_of(array_of(rows[1])),
                              published ? silu_of(value) : value},
                             layout, products))
      .values;
}

TEST(Lightning, normalizes_the_output_of_linear_attention) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  EXPECT_EQ(difference(Mechanism({"lightning", {}}, shape)(rows, layout).to_vector<double>(),
                       expected(rows, layout, false), 1e-13),
            "");
}

TEST(Lightning, the_published_form_activates_values_too) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  EXPECT_EQ(difference(Mechanism({"lightning", {"published=true"}}, shape)(rows, layout).to_vector<double>(),
                       expected(rows, layout, true), 1e-13),
            "");
}

/// The normalization removes the scale of queries' products, whatever the length.
TEST(Lightning, rows_have_a_mean_square_of_one) {
  const SequenceLayout layout = layout_of({5, 60}, 64);
  const Array y = array_of(Mechanism({"lightning", {}}, shape)(random_rows(layout, shape), layout));
  for (std::int64_t t = 0; t < 65; ++t) {
    double square = 0;
    for (std::int64_t c = 0; c < 24; ++c) square += y[t * 24 + c] * y[t * 24 + c];
    EXPECT_NEAR(square, 24, 1e-12);
  }
}

}  // namespace
}  // namespace tern::test
