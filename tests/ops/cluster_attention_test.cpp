// Attention inside clusters against its definition: lists of the best tokens, whole rows of weights, averages.
#include <algorithm>
#include <limits>
#include <numeric>

#include "support/attention_by_definition.h"
#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

struct Example {
  SequenceLayout layout;
  Array query_scores, key_scores;  ///< [heads, clusters, tokens]
  ClusterAttentionOptions options;

  Tensor operator()(std::span<const Tensor> x) const {
    const auto scores = [&](const Array& values) {
      return tensor_of(values, x[0].dtype() == DType::float64 ? DType::float64 : DType::float32, x[0].device());
    };
    return cluster_attention(x[0], x[1], x[2], on(x[0], layout), {scores(query_scores), scores(key_scores)},
                             options);
  }
};

/// The tokens of the sequence begin .. end - 1 that one cluster takes.
std::vector<std::int64_t> best(const Array& scores, std::int64_t list, int begin, int end,
                               std::int64_t window) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(end - begin));
  std::iota(tokens.begin(), tokens.end(), begin);
  const auto level = [&](std::int64_t token) {
    return std::lround((1 - scores[list * scores.size(2) + token]) * 65535 / 2);
  };
  std::stable_sort(tokens.begin(), tokens.end(), [&](auto a, auto b) { return level(a) < level(b); });
  const std::int64_t length = end - begin, clusters = scores.size(1);
  tokens.resize(
      static_cast<std::size_t>(window > 0 ? std::min(window, length) : (length + clusters - 1) / clusters));
  return tokens;
}

/// Adds softmax(scale q k^T) v of the tokens `queries` among the tokens `keys` to their rows of `out`.
void add_cluster(const Arrays& x, std::int64_t head, const std::vector<std::int64_t>& queries,
                 const std::vector<std::int64_t>& keys, double scale, Array& out) {
  const std::int64_t heads = x[0].size(1), width = x[0].size(2);
  const auto at = [&](std::int64_t token) { return (token * heads + head) * width; };
  for (const std::int64_t i : queries) {
    std::vector<double> products;
    for (const std::int64_t j : keys) {
      products.push_back(0);
      for (std::int64_t c = 0; c < width; ++c) products.back() += x[0][at(i) + c] * x[1][at(j) + c];
    }
    const std::vector<double> weights = softmax_weights(scale)(products);
    for (std::size_t j = 0; j < keys.size(); ++j)
      for (std::int64_t c = 0; c < width; ++c) out[at(i) + c] += weights[j] * x[2][at(keys[j]) + c];
  }
}

Array attended_in_clusters(const Example& example, const Arrays& x) {
  const std::int64_t heads = x[0].size(1), width = x[0].size(2), clusters = example.query_scores.size(1);
  const auto offsets = example.layout.offsets.to_vector<std::int32_t>();
  Array out(x[0].shape), taken({x[0].size(0), heads});
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t list = 0; list < heads * clusters; ++list) {
      const auto taken_by = [&](const Array& scores) {
        return best(scores, list, offsets[s], offsets[s + 1], example.options.window);
      };
      const std::vector<std::int64_t> queries = taken_by(example.query_scores);
      add_cluster(x, list / clusters, queries, taken_by(example.key_scores), example.options.scale, out);
      for (const std::int64_t i : queries) taken.at(i, list / clusters) += 1;
    }
  for (std::int64_t pair = 0; pair < taken.count(); ++pair)
    for (std::int64_t c = 0; c < width; ++c) out[pair * width + c] /= std::max(taken[pair], 1.0);
  return out;
}

Example example_of(const std::vector<int>& lengths, std::int64_t clusters, std::int64_t window) {
  Example out{layout_of(lengths, 9000), {}, {}, {.window = window, .scale = 0.6}};
  out.query_scores = uniform_array({2, clusters, out.layout.tokens()}, 500);
  out.key_scores = uniform_array({2, clusters, out.layout.tokens()}, 501);
  return out;
}

OpCase case_of(const std::string& name, const Example& example, std::int64_t width) {
  const Shape shape{example.layout.tokens(), 2, width};
  return {.name = name,
          .inputs = {normal_array(shape, 502), normal_array(shape, 503), normal_array(shape, 504)},
          .function = one_result([=](std::span<const Tensor> x) { return example(x); }),
          .reference = one_array([=](const Arrays& x) { return attended_in_clusters(example, x); }),
          .reduction_length = 200,
          .is_empty = example.layout.tokens() == 0};
}

TEST(ClusterAttention, clusters_attend_among_the_best_queries_and_keys) {
  std::vector<OpCase> cases;
  const std::vector<int> lengths{37, 1, 0, 9, 2, 17};
  cases.push_back(case_of("one cluster", example_of(lengths, 1, 0), 5));
  cases.push_back(case_of("8 clusters", example_of(lengths, 8, 0), 8));
  cases.push_back(case_of("windows of 2", example_of(lengths, 8, 2), 3));
  cases.push_back(case_of("windows of 11", example_of(lengths, 3, 11), 6));
  cases.push_back(case_of("windows beyond all lengths", example_of(lengths, 4, 1000), 4));
  cases.push_back(case_of("tiles of attention kernels", example_of({150, 40}, 2, 0), 32));
  cases.push_back(case_of("no tokens", example_of({0, 0}, 3, 0), 4));
  check(cases);
}

/// Scores of two levels: tokens of equal score are taken in their order, and most are taken by no cluster.
TEST(ClusterAttention, the_first_of_equal_scores_wins_and_tokens_of_no_cluster_get_zeros) {
  Example example = example_of({60, 3}, 4, 5);
  for (Array* scores : {&example.query_scores, &example.key_scores})
    for (double& value : scores->values) value = value > 0.5 ? 0.25 : -0.5;
  check({case_of("two levels", example, 6)});
  const Tensor x = tensor_of(normal_array({63, 2, 6}, 505), DType::float64);
  const std::vector<double> y = example(std::vector{x, x, x}).to_vector<double>();
  EXPECT_GT(std::count(y.begin(), y.end(), 0.0), 63 * 2 * 6 / 3);
}

/// A GPU looks through a sequence in parts of 1024 tokens, beyond 4096 tokens in parts of 4096: ties and counts
/// must go on from one part to the next.
TEST(ClusterAttention, long_sequences_are_searched_in_parts) {
  for (const Device device : test_devices())
    for (const std::vector<int>& lengths : {std::vector<int>{2500, 2}, {5, 9000}}) {
      Example example = example_of(lengths, 2, 700);
      for (double& value : example.query_scores.values) value = value > 0.9 ? 0.25 : -0.5;
      const Shape shape{example.layout.tokens(), 2, 4};
      const Arrays rows{normal_array(shape, 511), normal_array(shape, 512), normal_array(shape, 513)};
      std::vector<Tensor> x;
      for (const Array& array : rows) x.push_back(tensor_of(array, DType::float64, device));
      EXPECT_EQ(difference(example(x).to_vector<double>(), attended_in_clusters(example, rows).values, 1e-12),
                "");
    }
}

/// One cluster that holds the whole sequence is exact attention, whatever the scores.
TEST(ClusterAttention, one_cluster_of_all_tokens_is_exact_attention) {
  for (const Device device : test_devices()) {
    const Example example = example_of({33, 1, 0, 64}, 1, 0);
    std::vector<Tensor> x;
    for (const std::uint64_t part : {0, 1, 2})
      x.push_back(tensor_of(normal_array({98, 2, 16}, 506 + part), DType::float64, device));
    const Tensor exact = softmax_attention(x[0], x[1], x[2], on(x[0], example.layout), 0.6, {});
    EXPECT_EQ(difference(example(x).to_vector<double>(), exact.to_vector<double>(), 1e-13), "");
  }
}

TEST(ClusterAttention, scores_that_are_no_numbers_or_out_of_range_are_ranked) {
  for (const Device device : test_devices()) {
    Example example = example_of({20}, 2, 4);
    for (std::int64_t i = 0; i < example.query_scores.count(); i += 3)
      example.query_scores[i] = std::numeric_limits<double>::quiet_NaN();
    example.key_scores[4] = std::numeric_limits<double>::infinity();
    example.key_scores[5] = -7;
    Example ranked = example;
    for (Array* scores : {&ranked.query_scores, &ranked.key_scores})
      for (double& value : scores->values) value = std::isnan(value) ? -1 : std::clamp(value, -1.0, 1.0);
    const Tensor x = tensor_of(normal_array({20, 2, 4}, 509), DType::float64, device);
    EXPECT_EQ(example(std::vector{x, x, x}).to_vector<double>(),
              ranked(std::vector{x, x, x}).to_vector<double>());
  }
}

TEST(ClusterAttention, wrong_arguments_are_named) {
  const Example example = example_of({10}, 3, 0);
  const Tensor x = zeros({10, 2, 4}, DType::float64), three_heads = zeros({10, 3, 4}, DType::float64);
  const auto message = [&](const Tensor& rows, const Array& keys, std::int64_t window) {
    const ClusterScores scores{tensor_of(example.query_scores, DType::float64),
                               tensor_of(keys, DType::float64)};
    return thrown_error(
        [&] { cluster_attention(rows, rows, rows, example.layout, scores, {.window = window}); });
  };
  EXPECT_TRUE(mentions(message(three_heads, example.key_scores, 0), "scores"));
  EXPECT_TRUE(mentions(message(x, Array({2, 4, 10}), 0), "scores"));
  EXPECT_TRUE(mentions(message(x, example.key_scores, -1), "window"));
}

}  // namespace
}  // namespace tern::test
