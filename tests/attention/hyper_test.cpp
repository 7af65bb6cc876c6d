// HyperAttention: exact for short sequences, and an estimate of softmax attention for others.
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 8, .max_length = 64};

std::vector<double> exact(const std::vector<Tensor>& rows, const SequenceLayout& layout) {
  return attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                  softmax_weights(1 / std::sqrt(8.0)))
      .values;
}
double square_error(const std::vector<double>& a, const std::vector<double>& b) {
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out += (a[i] - b[i]) * (a[i] - b[i]);
  return out / static_cast<double>(a.size());
}

/// Up to exact_length tokens, up to block + samples, and up to a block.
TEST(Hyper, short_sequences_get_exact_attention) {
  const SequenceLayout layout = layout_of({60, 1, 0, 33}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  for (const std::vector<std::string>& settings :
       std::vector<std::vector<std::string>>{{},
                                             {"block=8", "samples=8", "exact_length=60"},
                                             {"block=8", "samples=52"},
                                             {"block=60", "samples=4", "exact_length=1"}}) {
    const Mechanism mechanism({"hyper", settings}, shape);
    EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), exact(rows, layout), 1e-12), "");
  }
}

/// The mean square of the error of an estimate from n samples falls like 1 / n.
TEST(Hyper, its_error_falls_with_the_number_of_samples) {
  const SequenceLayout layout = layout_of({600}, 600);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const std::vector<double> wanted = exact(rows, layout);
  const auto error = [&](const char* samples) {
    Mechanism mechanism({"hyper", {"block=16", "exact_length=16", samples}}, shape);
    double total = 0;
    for (mechanism.step = 1; mechanism.step <= 4; ++mechanism.step)
      total += square_error(mechanism(rows, layout).to_vector<double>(), wanted);
    return total / 4;
  };
  const double few = error("samples=32"), many = error("samples=512"), most = error("samples=8192");
  EXPECT_LT(many, few / 8);  // 1 / 16 in the limit
  EXPECT_LT(most, many / 8);
}

/// Each query's weight lies on one key, which stands elsewhere: sorted blocks find it, samples do not.
TEST(Hyper, sorted_blocks_find_the_heavy_keys) {
  constexpr AttentionShape wide{.heads = 2, .head_width = 32, .max_length = 512};
  const SequenceLayout layout = layout_of({512}, 512);
  std::vector<Tensor> rows = random_rows(layout, wide);
  rows[1] = concatenate({slice(rows[0], 0, 200, 312), slice(rows[0], 0, 0, 200)}, 0);
  rows[0] = affine(rows[0], 2);
  const std::vector<double> wanted = attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                                              softmax_weights(1 / std::sqrt(32.0)))
                                         .values;
  const auto error = [&](const char* block, const char* samples) {
    const Mechanism mechanism({"hyper", {block, samples, "exact_length=64"}}, wide);
    return square_error(mechanism(rows, layout).to_vector<double>(), wanted);
  };
  EXPECT_LT(error("block=64", "samples=64"), 0.1 * error("block=1", "samples=127"));
}

/// What is sampled depends on the data set index and the step, not on the batch.
TEST(Hyper, draws_by_sample_and_step) {
  const SequenceLayout layout = layout_of({50}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  Mechanism mechanism({"hyper", {"block=4", "samples=4"}}, shape);
  const auto run = [&](bool training) { return mechanism(rows, layout, training).to_vector<double>(); };
  const std::vector<double> first = run(true), evaluated = run(false);
  EXPECT_EQ(run(true), first);
  EXPECT_NE(evaluated, first);
  mechanism.step = 2;
  EXPECT_NE(run(true), first);
}

}  // namespace
}  // namespace tern::test
