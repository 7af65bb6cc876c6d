// YOSO against its expectation (Zeng et al. 2021, arXiv 2111.09714): bias, variance, gradients and settings.
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/golden.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 16, .max_length = 64};
constexpr int bits = 4;

struct Moments {
  std::vector<double> sum, square;
  double draws = 0;
  void add(const std::vector<double>& x) {
    sum.resize(x.size());
    square.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += x[i], square[i] += x[i] * x[i];
    ++draws;
  }
  double mean(std::size_t i) const { return sum[i] / draws; }
  double variance(std::size_t i) const { return (square[i] - sum[i] * sum[i] / draws) / (draws - 1); }
  double mean_variance() const {
    double total = 0;
    for (std::size_t i = 0; i < sum.size(); ++i) total += variance(i) / static_cast<double>(sum.size());
    return total;
  }
};

/// Unit rows that share a direction, so that collisions of all probabilities occur.
struct Rows {
  SequenceLayout layout = layout_of({40}, 64);
  std::vector<Tensor> qkv;
  Tensor dy = tensor_of(normal_array({40, 2, 16}, 203), DType::float32);
  Rows() {
    const Array common = normal_array({2 * 16}, 204);
    for (std::uint64_t part = 0; part < 3; ++part) {
      Array x = normal_array({40, 2, 16}, 200 + part);
      for (std::int64_t i = 0; part < 2 && i < x.count(); ++i) x[i] += 0.7 * common[i % 32];
      qkv.push_back(tensor_of(part < 2 ? unit_array(x) : x, DType::float32));
    }
  }
  /// Values and the gradients of q, k, v over `draws` steps.
  std::array<Moments, 4> sampled(const HashOptions& options, int draws,
                                 BernoulliGradient gradient = BernoulliGradient::surrogate) const {
    std::array<Moments, 4> out;
    for (int draw = 0; draw < draws; ++draw) {
      const auto step = static_cast<std::uint32_t>(draw);
      const RandomStream stream{stream_key(21, "yoso"), &step};
      const std::vector<Tensor> leaves{leaf(qkv[0]), leaf(qkv[1]), leaf(qkv[2])};
      const Tensor y = bernoulli_sample(leaves[0], leaves[1], leaves[2], layout, options, gradient, stream);
      backward(std::span(&y, 1), std::span(&dy, 1));
      out[0].add(y.to_vector<double>());
      for (std::size_t i = 0; i < 3; ++i) out[i + 1].add(gradient_of(leaves[i]).to_vector<double>());
    }
    return out;
  }
};

/// Share of entries whose mean lies within 3 standard errors of the expected value.
double share_within(const Moments& moments, const std::vector<double>& expected) {
  double inside = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    inside += std::abs(moments.mean(i) - expected[i]) <= 3 * std::sqrt(moments.variance(i) / moments.draws);
  return inside / static_cast<double>(expected.size());
}

TEST(Yoso, gaussian_hashing_is_unbiased_in_values_and_gradients) {
  const Rows rows;
  const std::vector<Array> inputs{array_of(rows.qkv[0]), array_of(rows.qkv[1]), array_of(rows.qkv[2])};
  const std::vector<double> expected = attended(inputs, rows.layout, bernoulli_weights(bits)).values;
  for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact}) {
    const auto moments = rows.sampled({HashFamily::gaussian, 8, bits}, 512, gradient);
    EXPECT_GE(share_within(moments[0], expected), 0.99);
    const auto slopes = bernoulli_gradients(inputs, array_of(rows.dy), rows.layout, bits, gradient);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_GE(share_within(moments[i + 1], slopes[i].values), 0.99) << i;
  }
}

TEST(Yoso, variance_falls_with_the_number_of_hashes) {
  const Rows rows;
  std::vector<double> x, y;
  for (const int hashes : {1, 4, 16, 64}) {
    x.push_back(std::log(static_cast<double>(hashes)));
    y.push_back(std::log(rows.sampled({HashFamily::gaussian, hashes, bits}, 200)[0].mean_variance()));
  }
  double slope = 0, spread = 0;
  const double center = (x.front() + x.back()) / 2;
  for (std::size_t i = 0; i < x.size(); ++i)
    slope += (x[i] - center) * y[i], spread += (x[i] - center) * (x[i] - center);
  EXPECT_NEAR(slope / spread, -1, 0.05);
}

/// Interleaved bits come from different rotations: nearly unbiased. The published scheme collides too rarely.
TEST(Yoso, hadamard_families_have_their_documented_bias) {
  const Rows rows;
  const std::vector<double> expected =
      attended({array_of(rows.qkv[0]), array_of(rows.qkv[1]), Array({40, 2, 16}, 1)}, rows.layout,
               bernoulli_weights(9))
          .values;
  Rows counted = rows;
  counted.qkv[2] = full({40, 2, 16}, 1, DType::float32);
  const auto ratio = [&](HashFamily family) {
    const Moments moments = counted.sampled({family, 16, 9}, 256)[0];
    double actual = 0, total = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) actual += moments.mean(i), total += expected[i];
    return actual / total;
  };
  EXPECT_NEAR(ratio(HashFamily::gaussian), 1, 0.04);
  EXPECT_NEAR(ratio(HashFamily::interleaved), 1, 0.06);
  EXPECT_LT(ratio(HashFamily::hadamard), 0.95);
}

/// Normalised rows, forward and both gradients, at keys that equal a query or are opposite to one.
TEST(Yoso, expectation_form_matches_golden_values) {
  const Golden golden("yoso_expectation");
  const SequenceLayout layout = layout_of({9, 1, 0, 17}, 64);
  const Tensor dy = golden.tensor("dy");
  for (const int width : {1, 8, 11})
    for (const std::string gradient : {"surrogate", "exact"}) {
      const Mechanism mechanism(
          {"yoso", {format_text("bits={}", width), "form=expectation", "gradient=" + gradient}}, {2, 6, 64});
      const std::string prefix = format_text("raw.bits_{}.", width);
      const std::vector<Tensor> in{leaf(golden.tensor("raw.q")), leaf(golden.tensor("raw.k")),
                                   leaf(golden.tensor("v"))};
      const Tensor y = mechanism(in, layout);
      backward(std::span(&y, 1), std::span(&dy, 1));
      EXPECT_EQ(difference(y.to_vector<double>(), golden.values(prefix + "out"), 1e-11), "");
      EXPECT_EQ(
          difference(gradient_of(in[0]).to_vector<double>(), golden.values(prefix + gradient + ".dq"), 1e-9),
          "");
      EXPECT_EQ(
          difference(gradient_of(in[1]).to_vector<double>(), golden.values(prefix + gradient + ".dk"), 1e-9),
          "");
      EXPECT_EQ(difference(gradient_of(in[2]).to_vector<double>(), golden.values(prefix + "dv"), 1e-11), "");
    }
}

TEST(Yoso, rows_have_length_one_or_zero_before_the_convolution) {
  const SequenceLayout layout = layout_of({60}, 64);
  const Mechanism mechanism({"yoso", {"bits=12", "hashes=2"}}, shape);
  const std::vector<double> y = mechanism(random_rows(layout, shape), layout).to_vector<double>();
  int zeros = 0;
  for (std::size_t row = 0; row < 120; ++row) {
    double square = 0;
    for (std::size_t c = 0; c < 16; ++c) square += y[row * 16 + c] * y[row * 16 + c];
    zeros += square == 0;
    EXPECT_TRUE(square == 0 || std::abs(square - 1) < 1e-12);
  }
  EXPECT_GT(zeros, 0);
}

TEST(Yoso, bits_follow_the_padded_length_up_to_sixteen) {
  const SequenceLayout layout = layout_of({30}, 30);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto run = [&](const std::string& setting, std::int64_t max_length) {
    return Mechanism({"yoso", {"form=expectation", setting}}, {2, 16, max_length})(rows, layout)
        .to_vector<double>();
  };
  EXPECT_EQ(run("bits=0", 2048), run("bits=11", 2048));
  EXPECT_EQ(run("bits=0", 2049), run("bits=12", 2049));
  EXPECT_EQ(run("bits=0", 1 << 20), run("bits=16", 1 << 20));
  EXPECT_EQ(run("bits=0", 1), run("bits=1", 1));
}

TEST(Yoso, evaluation_draws_from_its_own_stream_or_none) {
  const SequenceLayout layout = layout_of({30}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto run = [&](const std::vector<std::string>& settings, bool training) {
    return Mechanism({"yoso", settings}, shape)(rows, layout, training).to_vector<double>();
  };
  EXPECT_NE(run({"bits=4"}, true), run({"bits=4"}, false));
  EXPECT_EQ(run({"bits=4", "evaluation=expectation"}, false), run({"bits=4", "form=expectation"}, true));
  EXPECT_EQ(run({"bits=4", "evaluation=expectation"}, true), run({"bits=4"}, true));
}

}  // namespace
}  // namespace tern::test
