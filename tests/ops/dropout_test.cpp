#include "support/devices.h"
#include "support/dropout_reference.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

TEST(Dropout, reproduces_the_mask_of_the_stream) {
  std::vector<OpCase> cases;
  for (const double rate : {0.1, 0.5, 0.9})
    for (const Shape& shape : {Shape{1, 1}, Shape{7, 3}, Shape{5, 17}, Shape{33, 130}, Shape{0, 4}}) {
      const SequenceLayout layout = layout_of({static_cast<int>(shape[0])}, 200, 3);
      const DropoutOptions options{rate, test_stream(6)};
      const Array factors = dropout_factors(shape, layout.token_rows(), options);
      cases.push_back({.name = format_text("dropout {} at {}", shape, rate),
                       .inputs = {uniform_array(shape, 120, 0.5, 1)},
                       .function = one_result([=](auto x) {
                         return dropout(x[0], on(x[0], layout.token_rows()), on(x[0], options));
                       }),
                       .reference = one_array([factors](const Arrays& x) {
                         Array y = x[0];
                         for (std::int64_t i = 0; i < y.count(); ++i) y[i] *= factors[i];
                         return y;
                       }),
                       .is_empty = shape.count() == 0});
    }
  check(cases);
}

/// Kept entries of 64 x 1024 draws: their share within 5 standard errors, the mean within rounding of it.
TEST(Dropout, keeps_its_share_and_its_mean) {
  const SequenceLayout layout = layout_of({64}, 64);
  for (const double rate : {0.1, 0.5}) {
    const std::vector<float> y =
        dropout(full({64, 1024}, 1, DType::float32), layout.token_rows(), {rate, test_stream(7)})
            .to_vector<float>();
    const double count = static_cast<double>(y.size());
    double kept = 0, total = 0;
    for (const float value : y) kept += value != 0, total += value;
    EXPECT_NEAR(kept / count, 1 - rate, 5 * std::sqrt(rate * (1 - rate) / count));
    EXPECT_NEAR(total / kept, 1 / (1 - rate), 2e-5 / (1 - rate));
  }
}

TEST(Dropout, rows_columns_and_steps_draw_independently) {
  const SequenceLayout layout = layout_of({64}, 64);
  std::uint32_t step = 0;
  const RandomStream stream{stream_key(1, "dropout"), &step};
  const auto kept = [&] {
    std::vector<double> out =
        dropout(full({64, 64}, 1, DType::float64), layout.token_rows(), {0.5, stream}).to_vector<double>();
    for (double& value : out) value = value / 2 - 0.5;
    return out;
  };
  const std::vector<double> first = kept();
  step = 1;
  const std::vector<double> second = kept();
  double by_column = 0, by_row = 0, by_step = 0;
  for (std::size_t i = 0; i < 64 * 63; ++i) {
    by_row += first[i] * first[i + 64];
    by_column += first[i] * first[i + 1];
    by_step += first[i] * second[i];
  }
  const double limit = 5 * 0.25 * std::sqrt(64.0 * 63);
  EXPECT_LT(std::abs(by_row), limit);
  EXPECT_LT(std::abs(by_column), limit);
  EXPECT_LT(std::abs(by_step), limit);
}

/// A row's mask depends on its sample and position, not on its place in the batch.
TEST(Dropout, does_not_depend_on_the_packing) {
  const SequenceLayout together = make_layout({0, 2, 5}, {0, 4, 1, 2, 3}, {8, 9}, 6);
  const SequenceLayout turned = make_layout({0, 3, 5}, {1, 2, 3, 0, 4}, {9, 8}, 6);
  const SequenceLayout alone = make_layout({0, 3}, {1, 2, 3}, {9}, 6);
  const DropoutOptions options{0.5, test_stream(8)};
  const auto mask = [&](const SequenceLayout& layout) {
    return dropout(full({layout.tokens(), 40}, 1, DType::float32), layout.token_rows(), options)
        .to_vector<float>();
  };
  const std::vector<float> a = mask(together), b = mask(turned), c = mask(alone);
  EXPECT_TRUE(std::equal(a.begin() + 80, a.end(), b.begin(), b.begin() + 120));
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 80, b.begin() + 120, b.end()));
  EXPECT_EQ(c, std::vector<float>(a.begin() + 80, a.end()));
  EXPECT_FALSE(std::equal(a.begin(), a.begin() + 80, a.begin() + 80));
}

TEST(Dropout, rate_zero_is_the_identity) {
  const Tensor x = full({2, 3}, 1, DType::float32);
  EXPECT_TRUE(dropout(x, layout_of({2}, 2).token_rows(), {0, test_stream(1)}).shares_storage_with(x));
}

TEST(Dropout, mistakes_are_named) {
  const Tensor x = zeros({2, 3}, DType::float32);
  const RowCoordinates two = layout_of({2}, 2).token_rows(), three = layout_of({3}, 3).token_rows();
  EXPECT_TRUE(mentions(thrown_error([&] {
                         dropout(x, two, {1, test_stream(1)});
                       }),
                       "dropout: the rate must lie in [0, 1), got 1"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         dropout(x, two, {std::nan(""), test_stream(1)});
                       }),
                       "dropout: the rate"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         dropout(x, three, {0.5, test_stream(1)});
                       }),
                       "dropout: x must be [rows, width]"));
}

}  // namespace
}  // namespace tern::test
