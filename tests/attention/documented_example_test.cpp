// The mechanism that docs/adding-an-attention.md shows: CMake cuts it from the page.
#include <cmath>

#include <gtest/gtest.h>

#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern {
AttentionKind cosine_attention();
}
#include "documented/cosine.inc"

namespace tern::test {
namespace {

double cosine(const double* a, const double* b, std::int64_t width) {
  double product = 0, aa = 0, bb = 0;
  for (std::int64_t c = 0; c < width; ++c) {
    product += a[c] * b[c];
    aa += a[c] * a[c];
    bb += b[c] * b[c];
  }
  return product / std::sqrt(aa * bb);
}

TEST(DocumentedExample, computes_what_the_page_says) {
  const AttentionShape shape{.heads = 2, .head_width = 5, .max_length = 16};
  const SequenceLayout layout = layout_of({3, 4}, 16);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  std::uint32_t step = 1;
  ParameterStore store(17, &step, DType::float64, {});
  const AttentionKind kind = cosine_attention();
  const auto mechanism =
      kind.build(Choice(std::span(&kind.config, 1), "cosine"), Scope(store).child("attention"), shape);
  const Array y = array_of(mechanism->forward({rows[0], rows[1], rows[2], layout, true})),
              q = array_of(rows[0]), k = array_of(rows[1]), v = array_of(rows[2]);
  std::vector<double> expected(y.values.size());
  for (std::size_t i = 0; i < 7; ++i)
    for (std::size_t j = i < 3 ? 0 : 3; j < (i < 3 ? 3U : 7U); ++j)
      for (std::size_t head = 0; head < 2; ++head) {
        const std::size_t at = (i * 2 + head) * 5, other = (j * 2 + head) * 5;
        const double weight = cosine(&q.values[at], &k.values[other], 5);
        for (std::size_t c = 0; c < 5; ++c) expected[at + c] += weight * v.values[other + c];
      }
  EXPECT_EQ(difference(y.values, expected, 1e-12), "");
}

}  // namespace
}  // namespace tern::test
