#include <complex>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/encoder.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// Pairs of columns as complex numbers, times e^(i position / 10000^(2 pair / width)).
Array turned(const Array& x, const SequenceLayout& layout) {
  const std::vector<std::int32_t> position = layout.position.to_vector<std::int32_t>();
  const std::int64_t heads = x.size(1), width = x.size(2);
  Array y(x.shape);
  for (std::int64_t r = 0; r < x.size(0) * heads; ++r)
    for (std::int64_t pair = 0; pair < width / 2; ++pair) {
      const double period = std::pow(10000.0, static_cast<double>(2 * pair) / static_cast<double>(width));
      const std::complex<double> turn = std::polar(1.0, position[static_cast<std::size_t>(r / heads)] / period);
      const std::int64_t at = r * width + 2 * pair;
      const std::complex<double> z = std::complex<double>(x[at], x[at + 1]) * turn;
      y[at] = z.real();
      y[at + 1] = z.imag();
    }
  return y;
}

Tensor sinusoids_for(const Tensor& x, std::int64_t length) {
  return on(x, cast(sinusoidal_table(length, x.size(2)), accumulate_type(x.dtype())));
}

TEST(Rotary, turns_pairs_of_columns_by_their_position) {
  std::vector<OpCase> cases;
  for (const int gap : {1, 7})
    for (const auto& [heads, width] : {std::pair{1, 2}, {3, 6}, {2, 64}}) {
      const SequenceLayout layout = layout_of({30, 0, 1, 64}, 500, gap);
      cases.push_back({.name = format_text("rotary of {} heads, width {}, gap {}", heads, width, gap),
                       .inputs = {normal_array({layout.tokens(), heads, width}, 190)},
                       .function = one_result(
                           [=](auto x) { return rotary(x[0], sinusoids_for(x[0], 500), on(x[0], layout)); }),
                       .reference = one_array([=](const Arrays& x) { return turned(x[0], layout); }),
                       .reduction_length = 2});
    }
  const SequenceLayout none = layout_of({0, 0}, 10);
  cases.push_back(
      {.name = "rotary of no tokens",
       .inputs = {Array({0, 2, 4})},
       .function = one_result([=](auto x) { return rotary(x[0], sinusoids_for(x[0], 10), on(x[0], none)); }),
       .reference = one_array([](const Arrays& x) { return x[0]; }),
       .is_empty = true});
  check(cases);
}

/// Views of one product, as the attention layer has them, give what copies give.
TEST(Rotary, takes_views_of_heads) {
  const SequenceLayout layout = layout_of({9, 4}, 20);
  const Tensor product = tensor_of(normal_array({layout.tokens(), 3, 2, 8}, 191), DType::float64);
  const Tensor table = sinusoidal_table(20, 8);
  for (const Tensor& part : unstack(product, 1))
    EXPECT_EQ(rotary(part, table, layout).to_vector<double>(),
              rotary(contiguous(part), table, layout).to_vector<double>());
}

TEST(Rotary, products_depend_on_the_distance_alone) {
  const Array q = normal_array({1, 1, 16}, 192), k = normal_array({1, 1, 16}, 193);
  const Tensor table = sinusoidal_table(9000, 16);
  const auto product = [&](std::int32_t i, std::int32_t j) {
    const auto at = [](std::int32_t place) { return make_layout({0, 1}, {place}, {0}, 9000); };
    const Array a = array_of(rotary(tensor_of(q, DType::float64), table, at(i))),
                b = array_of(rotary(tensor_of(k, DType::float64), table, at(j)));
    double sum = 0;
    for (std::int64_t c = 0; c < 16; ++c) sum += a[c] * b[c];
    return sum;
  };
  EXPECT_NEAR(product(3, 10), product(8900, 8907), 1e-10);
  EXPECT_GT(std::abs(product(3, 10) - product(3, 11)), 1e-3);
}

TEST(Rotary, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32), table = zeros({4, 4}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] {
                         rotary(zeros({2, 3, 5}, DType::float32), table, layout);
                       }),
                       "rotary: x must be [2, heads, width] with an even width"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         rotary(x, zeros({3, 4}, DType::float32), layout);
                       }),
                       "rotary: sinusoids must be float32 [at least 4, 4]"));
}

}  // namespace
}  // namespace tern::test
