#include "support/attention_by_definition.h"
#include "support/devices.h"
#include "support/golden.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

const std::vector<std::vector<int>> batches{{2, 1}, {7, 0, 1, 17}, {67}};

TEST(SoftmaxAttention, ragged_batches) {
  std::vector<OpCase> cases;
  for (const std::vector<int>& lengths : batches)
    for (const std::int64_t width : {1, 5, 32}) {
      const SequenceLayout layout = layout_of(lengths, 200);
      const Shape shape{layout.tokens(), 2, width};
      const double scale = 1 / std::sqrt(static_cast<double>(width));
      cases.push_back(
          {.name = format_text("softmax_attention of {}, width {}", lengths, width),
           .inputs = {normal_array(shape, 150), normal_array(shape, 151), normal_array(shape, 152)},
           .function = one_result([=](auto x) {
             return softmax_attention(x[0], x[1], x[2], on(x[0], layout), scale,
                                      on(x[0], DropoutOptions{0, test_stream(1)}));
           }),
           .reference = one_array([=](const Arrays& x) { return attended(x, layout, softmax_weights(scale)); }),
           .reduction_length = 67 + width});
    }
  check(cases);
}

TEST(SoftmaxAttention, reproduces_the_mask_of_the_stream) {
  std::vector<OpCase> cases;
  for (const std::vector<int>& lengths : batches)
    for (const double rate : {0.1, 0.7}) {
      const SequenceLayout layout = layout_of(lengths, 400, 3);
      const Shape shape{layout.tokens(), 3, 32};
      const DropoutOptions options{rate, test_stream(3)};
      cases.push_back({.name = format_text("softmax_attention of {}, dropout {}", lengths, rate),
                       .inputs = {normal_array(shape, 156), normal_array(shape, 157), normal_array(shape, 158)},
                       .function = one_result([=](auto x) {
                         return softmax_attention(x[0], x[1], x[2], on(x[0], layout), 0.2, on(x[0], options));
                       }),
                       .reference = one_array([=](const Arrays& x) {
                         return attended(x, layout, softmax_weights(0.2), weight_dropout(options));
                       }),
                       .reduction_length = 99});
    }
  check(cases);
}

TEST(SoftmaxAttention, with_dropout_is_differentiated_through_its_own_mask) {
  const SequenceLayout layout = layout_of({9, 4}, 20);
  const Shape shape{13, 2, 3};
  const std::vector<Tensor> inputs{tensor_of(normal_array(shape, 1), DType::float64),
                                   tensor_of(normal_array(shape, 2), DType::float64),
                                   tensor_of(normal_array(shape, 3), DType::float64)};
  const auto dropped = one_result([&](auto x) {
    return softmax_attention(x[0], x[1], x[2], on(x[0], layout), 0.5,
                             on(x[0], DropoutOptions{0.4, test_stream(2)}));
  });
  for (const std::string& line : gradient_failures(dropped, inputs)) ADD_FAILURE() << line;
}

TEST(SoftmaxAttention, matches_golden_values) {
  const Golden golden("softmax_attention");
  const SequenceLayout layout = layout_of({9, 1, 0, 17}, 20);
  ASSERT_EQ(layout.offsets.to_vector<std::int32_t>(), golden.integers("offsets"));
  std::vector<Tensor> in;
  for (const char* name : {"q", "k", "v"}) in.push_back(leaf(golden.tensor(name)));
  const Tensor out = softmax_attention(in[0], in[1], in[2], layout, 1 / std::sqrt(6.0), {0, test_stream(1)});
  const Tensor dout = golden.tensor("dout");
  backward(std::span(&out, 1), std::span(&dout, 1));
  EXPECT_EQ(difference(out.to_vector<double>(), golden.values("out"), 1e-12), "");
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(difference(gradient_of(in[i]).to_vector<double>(), golden.values(std::array{"dq", "dk", "dv"}[i]),
                         1e-12),
              "");
}

/// Rows are unit vectors; away from the poles, where the derivative of arccos is not bounded.
TEST(BernoulliExpectation, both_gradients) {
  std::vector<OpCase> cases;
  for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact})
    for (const std::vector<int>& lengths : batches)
      for (const int bits : {1, 8, 11}) {
        const SequenceLayout layout = layout_of(lengths, 200);
        const Shape shape{layout.tokens(), 2, 16};
        cases.push_back(
            {.name = format_text("bernoulli_expectation of {}, {} bits, gradient {}", lengths, bits, gradient),
             .inputs = {unit_array(normal_array(shape, 153)), unit_array(normal_array(shape, 154)),
                        normal_array(shape, 155)},
             .function = one_result([=](auto x) {
               return bernoulli_expectation(x[0], x[1], x[2], on(x[0], layout), bits, gradient);
             }),
             .reference =
                 one_array([=](const Arrays& x) { return attended(x, layout, bernoulli_weights(bits)); }),
             .reduction_length = 83,
             .gradient = [=](const Arrays& x, const Arrays& dy) {
               return bernoulli_gradients(x, dy[0], layout, bits, gradient);
             }});
      }
  check(cases);
}

/// Rows of any length; the results, and both gradients through all three scalings, by their formulas.
TEST(BernoulliExpectation, scales_rows_by_its_formula) {
  std::vector<OpCase> cases;
  for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact})
    for (const std::int64_t width : {16, 32, 64, 128}) {
      const int bits = 7;
      // longer ones sum gradients of queries in device memory
      const bool is_long = width == 64 && gradient == BernoulliGradient::surrogate;
      const SequenceLayout layout = layout_of({is_long ? 400 : 40, 1, 0, 70}, 400);
      const Shape shape{layout.tokens(), 2, width};
      const auto sums = [=](const Arrays& x) {
        return attended({unit_array(x[0]), unit_array(x[1]), x[2]}, layout, bernoulli_weights(bits));
      };
      cases.push_back({.name = format_text("bernoulli_expectation of rows of {} as they come, gradient {}",
                                           width, gradient),
                       .inputs = {normal_array(shape, 156), normal_array(shape, 157), normal_array(shape, 158)},
                       .function = one_result([=](auto x) {
                         return bernoulli_expectation(x[0], x[1], x[2], on(x[0], layout), bits, gradient,
                                                      BernoulliRows::unit);
                       }),
                       .reference = one_array([=](const Arrays& x) { return unit_array(sums(x)); }),
                       .reduction_length = 400,
                       .gradient = [=](const Arrays& x, const Arrays& dy) {
                         Arrays d =
                             bernoulli_gradients({unit_array(x[0]), unit_array(x[1]), x[2]},
                                                 through_scaling(sums(x), dy[0]), layout, bits, gradient);
                         d[0] = through_scaling(x[0], d[0]);
                         d[1] = through_scaling(x[1], d[1]);
                         return d;
                       }});
    }
  check(cases);
}

/// So many rows that CUDA takes one head after the other.
TEST(BernoulliExpectation, groups_of_heads_are_those_of_the_cpu) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  const SequenceLayout layout = layout_of(std::vector<int>(900, 64), 64);
  const Shape shape{layout.tokens(), 3, 64};
  const auto run = [&](Device device) {
    std::vector<Tensor> leaves;
    for (std::uint64_t part = 0; part < 3; ++part)
      leaves.push_back(leaf(tensor_of(normal_array(shape, 159 + part), DType::float64, device)));
    const Tensor y = bernoulli_expectation(leaves[0], leaves[1], leaves[2], on(leaves[0], layout), 6,
                                           BernoulliGradient::surrogate, BernoulliRows::unit);
    const Tensor dy = random_weights(std::span(&y, 1), 5)[0];
    backward(std::span(&y, 1), std::span(&dy, 1));
    std::vector<std::vector<double>> all{y.to_vector<double>()};
    for (const Tensor& x : leaves) all.push_back(gradient_of(x).to_vector<double>());
    return all;
  };
  const auto here = run({DeviceType::cuda, 0}), there = run({});
  for (std::size_t i = 0; i < here.size(); ++i) EXPECT_EQ(difference(here[i], there[i], 1e-10), "") << i;
}

TEST(BernoulliExpectation, the_exact_gradient_is_the_derivative) {
  const SequenceLayout layout = layout_of({9, 4}, 20);
  const Shape shape{13, 2, 8};
  const std::vector<Tensor> inputs{tensor_of(unit_array(normal_array(shape, 1)), DType::float64),
                                   tensor_of(unit_array(normal_array(shape, 2)), DType::float64),
                                   tensor_of(normal_array(shape, 3), DType::float64)};
  const auto with = [&](BernoulliGradient gradient) {
    return one_result([&, gradient](auto x) {
      return bernoulli_expectation(x[0], x[1], x[2], on(x[0], layout), 7, gradient);
    });
  };
  for (const std::string& line : gradient_failures(with(BernoulliGradient::exact), inputs))
    ADD_FAILURE() << line;
  // the surrogate is a lower bound of the derivative: the check must tell them apart, for q and for k
  EXPECT_EQ(gradient_failures(with(BernoulliGradient::surrogate), inputs).size(), 2);
  const auto scaled = one_result([&](auto x) {
    return bernoulli_expectation(x[0], x[1], x[2], on(x[0], layout), 7, BernoulliGradient::exact,
                                 BernoulliRows::unit);
  });
  const std::vector<Tensor> rows{tensor_of(normal_array(shape, 4), DType::float64),
                                 tensor_of(normal_array(shape, 5), DType::float64), inputs[2]};
  for (const std::string& line : gradient_failures(scaled, rows)) ADD_FAILURE() << line;
}

/// Some keys equal a query or are opposite to one.
TEST(BernoulliExpectation, matches_golden_values) {
  const Golden golden("yoso_expectation");
  const SequenceLayout layout = layout_of({9, 1, 0, 17}, 20);
  const Tensor dy = golden.tensor("dy");
  for (const int bits : {1, 8, 11})
    for (const auto& [name, gradient] :
         {std::pair{"surrogate", BernoulliGradient::surrogate}, std::pair{"exact", BernoulliGradient::exact}}) {
      const std::string prefix = format_text("unit.bits_{}.", bits);
      const Tensor q = leaf(golden.tensor("unit.q")), k = leaf(golden.tensor("unit.k")),
                   v = leaf(golden.tensor("v"));
      const Tensor y = bernoulli_expectation(q, k, v, layout, bits, gradient);
      backward(std::span(&y, 1), std::span(&dy, 1));
      EXPECT_EQ(difference(y.to_vector<double>(), golden.values(prefix + "y"), 1e-11), "");
      EXPECT_EQ(difference(gradient_of(q).to_vector<double>(), golden.values(prefix + name + ".dq"), 1e-9), "");
      EXPECT_EQ(difference(gradient_of(k).to_vector<double>(), golden.values(prefix + name + ".dk"), 1e-9), "");
      EXPECT_EQ(difference(gradient_of(v).to_vector<double>(), golden.values(prefix + "dv"), 1e-11), "");
    }
}

TEST(Attention, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32), y = zeros({3, 3, 4}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] {
                         softmax_attention(y, y, y, layout, 1, {0, test_stream(1)});
                       }),
                       "softmax_attention: q, k and v must be [2, heads, width] of one type"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         softmax_attention(x, x, x, layout, 1, {1, test_stream(1)});
                       }),
                       "the rate"));
  EXPECT_TRUE(
      mentions(thrown_error([&] { bernoulli_expectation(x, x, x, layout, 0, BernoulliGradient::exact); }),
               "bernoulli_expectation: bits must lie in [1, 20], got 0"));
}

TEST(SoftmaxAttention, widths_beyond_the_kernels_are_refused_and_a_scale_of_0_averages) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  constexpr Device gpu{DeviceType::cuda, 0};
  const Tensor wide = zeros({5, 1, 257}, DType::bfloat16, gpu);
  const SequenceLayout layout = on(wide, layout_of({5}, 5));
  EXPECT_TRUE(mentions(thrown_error([&] { softmax_attention(wide, wide, wide, layout, 1, {}); }),
                       "heads must have at most 256 columns, got 257"));
  const Tensor x = from_vector(std::vector<float>{1, 2, 3, 4, 5}, {5, 1, 1}, gpu);
  const Tensor y = softmax_attention(cast(x, DType::bfloat16), cast(x, DType::bfloat16),
                                     cast(x, DType::bfloat16), layout, 0, {});
  EXPECT_EQ(y.to_vector<float>(), std::vector<float>(5, 3));
}

}  // namespace
}  // namespace tern::test
