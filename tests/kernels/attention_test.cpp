// Tiled attention against its definition, on every instruction set of this processor.
#include "kernels/attention.h"

#include <gtest/gtest.h>

#include "kernels/attention_reference.h"
#include "tern/device.h"

namespace tern::test {
namespace {

using kernels::AttentionGradients;
using kernels::AttentionInputs;
using kernels::BernoulliOptions;
using kernels::SoftmaxOptions;

bool is_supported(Isa isa) {
  if (isa == Isa::v4) return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return isa == Isa::v2 || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}

template <class T>
struct Results {
  std::vector<T> out, lse, dq, dk, dv;
  std::vector<T> whole;  ///< gradients with what lies between the rows
};

/// Runs `body(context, batch, out, gradients)` for one instruction set on outputs full of NaN.
template <class T, class Body>
Results<T> run(Isa isa, const RaggedBatch<T>& batch, const Body& body) {
  const T unset = std::numeric_limits<T>::quiet_NaN();
  Results<T> results;
  results.out.assign(batch.elements(), unset);
  results.lse.assign(static_cast<std::size_t>(batch.tokens() * batch.heads), unset);
  results.whole.assign(batch.product.size(), unset);
  T* whole = results.whole.data();
  const AttentionGradients<T> gradients{batch.view(whole, 0), batch.view(whole, 1), batch.view(whole, 2)};
  if (isa == Isa::v2) {
    Cpu<Isa::v2> context;
    body(context, results, gradients);
  } else if (isa == Isa::v3) {
    Cpu<Isa::v3> context;
    body(context, results, gradients);
  } else {
    Cpu<Isa::v4> context;
    body(context, results, gradients);
  }
  int part = 0;
  for (auto* to : {&results.dq, &results.dk, &results.dv}) {
    const auto from = batch.view(whole, part++);
    for (std::int64_t t = 0; t < batch.tokens(); ++t) {
      for (int h = 0; h < batch.heads; ++h) to->insert(to->end(), from.row(t, h), from.row(t, h) + batch.width);
    }
  }
  return results;
}

template <class T>
Results<T> run_softmax(Isa isa, const RaggedBatch<T>& batch, const std::vector<T>& dout,
                       const SoftmaxOptions& options) {
  return run<T>(isa, batch, [&](auto& cpu, Results<T>& results, const AttentionGradients<T>& gradients) {
    kernels::softmax_attention_forward<T>(cpu, batch.layout(), batch.inputs(), options,
                                          batch.rows(results.out.data()), results.lse.data());
    kernels::softmax_attention_backward<T>(
        cpu, batch.layout(), batch.inputs(), options,
        {batch.template rows<const T>(results.out.data()), results.lse.data()},
        batch.template rows<const T>(dout.data()), gradients);
  });
}

template <class T>
Results<T> run_bernoulli(Isa isa, const RaggedBatch<T>& batch, const std::vector<T>& dout,
                         const BernoulliOptions& options) {
  return run<T>(isa, batch, [&](auto& cpu, Results<T>& results, const AttentionGradients<T>& gradients) {
    kernels::bernoulli_expectation_forward<T>(cpu, batch.layout(), batch.inputs(), options,
                                              batch.rows(results.out.data()));
    kernels::bernoulli_expectation_backward<T>(cpu, batch.layout(), batch.inputs(), options,
                                               batch.template rows<const T>(dout.data()), gradients);
  });
}

template <class T>
void expect_results(const Results<T>& actual, const Expected& expected, double tolerance) {
  expect_close("out", actual.out, expected.out, tolerance);
  expect_close("dq", actual.dq, expected.dq, tolerance);
  expect_close("dk", actual.dk, expected.dk, tolerance);
  expect_close("dv", actual.dv, expected.dv, tolerance);
}

template <class T>
std::vector<T> upstream(const RaggedBatch<T>& batch) {
  std::vector<T> dout(batch.elements());
  RaggedBatch<T>::fill(dout, 23);
  return dout;
}

template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 4e-6 : 4e-14;

const std::uint32_t step = 9;
kernels::AttentionDropout dropout(float rate) {
  return {.rate = rate, .stream = {.key = {77, 88}, .step = &step}};
}

struct Shape {
  std::vector<int> lengths;
  int heads, width, first_position = 0, gap = 1;
};
const std::vector<Shape> shapes{{{1}, 1, 1},           {{7, 0, 1, 33}, 3, 5},       {{0, 0, 64, 129, 2}, 2, 16},
                                {{65, 130}, 1, 17, 3}, {{100, 31, 0}, 2, 32, 0, 5}, {{66}, 2, 47, 1, 2},
                                {{150, 1}, 1, 256}};

class AttentionTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!is_supported(GetParam())) GTEST_SKIP() << "this processor has no " << name(GetParam());
  }
  void TearDown() override { set_threads(0); }
};
INSTANTIATE_TEST_SUITE_P(Isas, AttentionTest, testing::Values(Isa::v2, Isa::v3, Isa::v4),
                         [](const auto& info) { return std::string(name(info.param)); });

template <class T>
void check_softmax(Isa isa, float rate) {
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << "width " << shape.width);
    const RaggedBatch<T> batch(shape.lengths, shape.heads, shape.width, shape.first_position, shape.gap);
    const std::vector<T> dout = upstream(batch);
    const SoftmaxOptions options{.scale = 1.7 / std::sqrt(shape.width), .dropout = dropout(rate)};
    const Expected expected = reference(batch, dout, options.scale, softmax_mechanism(batch, options));
    const Results<T> actual = run_softmax(isa, batch, dout, options);
    expect_results(actual, expected, tolerance<T>);
    expect_close("lse", actual.lse, expected.lse, tolerance<T>);
  }
}
TEST_P(AttentionTest, softmax_follows_its_definition) {
  check_softmax<float>(GetParam(), 0);
  check_softmax<double>(GetParam(), 0);
}
TEST_P(AttentionTest, softmax_dropout_follows_the_stream) {
  check_softmax<float>(GetParam(), 0.1f);
  check_softmax<double>(GetParam(), 0.5f);
}

template <class T>
void check_bernoulli(Isa isa, const BernoulliOptions& options) {
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << "width " << shape.width << ", bits " << options.bits);
    RaggedBatch<T> batch(shape.lengths, shape.heads, shape.width);
    batch.scale_rows_to_unit();
    const std::vector<T> dout = upstream(batch);
    const Expected expected = reference(batch, dout, 1, bernoulli_mechanism(options, static_cast<T>(1 - 1e-6)));
    expect_results(run_bernoulli(isa, batch, dout, options), expected, 3 * tolerance<T>);
  }
}
TEST_P(AttentionTest, bernoulli_expectation_follows_its_definition) {
  for (const int bits : {1, 2, 9, 12, 16}) {
    check_bernoulli<float>(GetParam(), {.bits = bits, .gradient = BernoulliGradient::surrogate});
  }
  check_bernoulli<double>(GetParam(), {.bits = 11, .gradient = BernoulliGradient::surrogate});
}
TEST_P(AttentionTest, bernoulli_exact_gradient_follows_its_definition) {
  check_bernoulli<float>(GetParam(), {.bits = 8, .gradient = BernoulliGradient::exact});
  check_bernoulli<double>(GetParam(), {.bits = 1, .gradient = BernoulliGradient::exact});
}

TEST_P(AttentionTest, sequences_of_several_chunks_follow_the_definition) {
  const RaggedBatch<float> batch({1300, 40}, 1, 4);
  const std::vector<float> dout = upstream(batch);
  const SoftmaxOptions options{.scale = 0.9, .dropout = dropout(0.2f)};
  const Expected expected = reference(batch, dout, options.scale, softmax_mechanism(batch, options));
  expect_results(run_softmax(GetParam(), batch, dout, options), expected, tolerance<float>);
}

TEST_P(AttentionTest, results_do_not_depend_on_the_number_of_threads) {
  RaggedBatch<float> batch({2500, 3, 700}, 2, 8);
  batch.scale_rows_to_unit();
  const std::vector<float> dout = upstream(batch);
  std::vector<Results<float>> softmax, bernoulli;
  for (const int count : {1, 2, 3, 3}) {
    set_threads(count);
    softmax.push_back(run_softmax(GetParam(), batch, dout, {.scale = 2, .dropout = dropout(0.1f)}));
    bernoulli.push_back(run_bernoulli(GetParam(), batch, dout, {.bits = 9}));
  }
  for (const auto* runs : {&softmax, &bernoulli}) {
    for (const Results<float>& other : *runs) {
      ASSERT_FALSE(other.dq.empty());
      EXPECT_EQ(other.out, runs->front().out);
      EXPECT_EQ(other.dq, runs->front().dq);
      EXPECT_EQ(other.dk, runs->front().dk);
      EXPECT_EQ(other.dv, runs->front().dv);
    }
  }
}

TEST_P(AttentionTest, nothing_between_the_rows_is_written) {
  const RaggedBatch<float> batch({70, 5}, 2, 19);
  const Results<float> results = run_softmax(GetParam(), batch, upstream(batch), {.scale = 0.5, .dropout = {}});
  std::size_t unset = 0;
  for (const float value : results.whole) unset += std::isnan(value);
  EXPECT_EQ(unset, static_cast<std::size_t>(batch.tokens() * 3 * batch.heads * 2));
}

TEST_P(AttentionTest, a_batch_without_tokens_is_accepted) {
  for (const std::vector<int>& lengths : {std::vector<int>{}, std::vector<int>{0, 0}}) {
    const RaggedBatch<float> batch(lengths, 2, 8);
    EXPECT_TRUE(
        run_softmax(GetParam(), batch, upstream(batch), {.scale = 1, .dropout = dropout(0.1f)}).dq.empty());
    EXPECT_TRUE(run_bernoulli(GetParam(), batch, upstream(batch), {.bits = 3}).dq.empty());
  }
}

TEST_P(AttentionTest, dropout_does_not_depend_on_the_packing) {
  const RaggedBatch<float> alone({90}, 2, 6);
  RaggedBatch<float> packed({90, 20}, 2, 6);
  packed.sample = {5, alone.sample[0]};
  packed.offsets = {0, 20, 110};
  packed.set_order();
  std::copy(alone.product.begin(), alone.product.end(), packed.product.begin() + 20 * packed.token_stride());
  const SoftmaxOptions options{.scale = 1, .dropout = dropout(0.3f)};
  const Results<float> a = run_softmax(GetParam(), alone, upstream(alone), options);
  const Results<float> b = run_softmax(GetParam(), packed, upstream(packed), options);
  ASSERT_FALSE(a.out.empty());
  EXPECT_TRUE(std::equal(a.out.begin(), a.out.end(), b.out.end() - static_cast<std::ptrdiff_t>(a.out.size())));
}

TEST_P(AttentionTest, large_scores_of_growing_size_stay_exact) {
  RaggedBatch<float> batch({400}, 1, 3);
  for (std::int64_t t = 0; t < batch.tokens(); ++t) {
    batch.view(batch.product.data(), 1).row(t, 0)[0] = static_cast<float>(t);  // maxima rise from key to key
    batch.view(batch.product.data(), 0).row(t, 0)[0] = t % 2 == 0 ? 1.0f : -1.0f;
  }
  const std::vector<float> dout = upstream(batch);
  const SoftmaxOptions options{.scale = 3, .dropout = {}};
  const Expected expected = reference(batch, dout, options.scale, softmax_mechanism(batch, options));
  const Results<float> actual = run_softmax(GetParam(), batch, dout, options);
  expect_close("out", actual.out, expected.out, 2e-4);  // scores near 1200 carry an error of 1e-4
  expect_close("lse", actual.lse, expected.lse, 1e-6);
  expect_close("dv", actual.dv, expected.dv, 2e-4);
}

TEST_P(AttentionTest, equal_and_opposite_rows_are_finite) {
  RaggedBatch<float> batch({40}, 1, 4);
  for (std::int64_t t = 0; t < batch.tokens(); ++t) {
    for (int c = 0; c < 4; ++c) {
      batch.view(batch.product.data(), 0).row(t, 0)[c] = 0.5f;
      batch.view(batch.product.data(), 1).row(t, 0)[c] = t % 2 == 0 ? 0.5f : -0.5f;
    }
  }
  for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact}) {
    const BernoulliOptions options{.bits = 10, .gradient = gradient};
    const std::vector<float> dout = upstream(batch);
    const Expected expected =
        reference(batch, dout, 1, bernoulli_mechanism(options, static_cast<float>(1 - 1e-6)));
    expect_results(run_bernoulli(GetParam(), batch, dout, options), expected, 2e-5);
  }
}

TEST_P(AttentionTest, a_nan_reaches_every_result_that_depends_on_it) {
  RaggedBatch<float> batch({200, 10}, 1, 8);
  batch.view(batch.product.data(), 1).row(150, 0)[3] = std::numeric_limits<float>::quiet_NaN();
  for (const Results<float>& results :
       {run_softmax(GetParam(), batch, upstream(batch), {.scale = 1, .dropout = {}}),
        run_bernoulli(GetParam(), batch, upstream(batch), {.bits = 9})}) {
    for (std::int64_t t = 0; t < 210; ++t) {
      const auto at = static_cast<std::size_t>(t * 8);
      EXPECT_EQ(std::isnan(results.out[at]), t < 200) << t;
      EXPECT_EQ(std::isnan(results.dq[at]), t < 200) << t;
    }
  }
}

TEST_P(AttentionTest, dropout_does_not_depend_on_the_positions) {
  const RaggedBatch<float> near({50, 17}, 2, 6), far({50, 17}, 2, 6, 1000, 3);
  const SoftmaxOptions options{.scale = 1, .dropout = dropout(0.3f)};
  const Results<float> a = run_softmax(GetParam(), near, upstream(near), options);
  ASSERT_FALSE(a.out.empty());
  EXPECT_EQ(a.out, run_softmax(GetParam(), far, upstream(far), options).out);
}

TEST_P(AttentionTest, rows_outside_all_sequences_become_zero) {
  RaggedBatch<float> batch({40, 3}, 2, 5, 0, 1, 20);
  batch.scale_rows_to_unit();
  const SoftmaxOptions options{.scale = 1, .dropout = dropout(0.2f)};
  const Expected expected = reference(batch, upstream(batch), options.scale, softmax_mechanism(batch, options));
  const Results<float> actual = run_softmax(GetParam(), batch, upstream(batch), options);
  expect_results(actual, expected, tolerance<float>);
  expect_close("lse", actual.lse, expected.lse, tolerance<float>);
  expect_results(
      run_bernoulli(GetParam(), batch, upstream(batch), {.bits = 4}),
      reference(batch, upstream(batch), 1, bernoulli_mechanism({.bits = 4}, static_cast<float>(1 - 1e-6))),
      3 * tolerance<float>);
}

TEST(AttentionDropoutTest, rate_is_kept_to_a_part_in_256) {
  EXPECT_EQ(kernels::weight_dropout_threshold(0.0f), 0u);
  EXPECT_EQ(kernels::weight_dropout_threshold(0.1f), 26u);
  EXPECT_EQ(kernels::weight_dropout_threshold(0.5f), 128u);
  EXPECT_EQ(kernels::weight_dropout_threshold(0.9999999f), 255u);
}

}  // namespace
}  // namespace tern::test
