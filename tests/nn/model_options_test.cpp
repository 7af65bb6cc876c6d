// Options of published models: widths, biases, initial values, the head of pairs.
#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/encoder.h"

namespace tern::test {
namespace {

constexpr std::uint32_t step = 4;

ModelConfig config_of(const std::string& options) {
  ModelConfig config;
  config::load_text(config,
                    "{width: 24, heads: 4, hidden_width: 40, layers: 1, head_width: 10, dropout: 0, attention: "
                    "{kind: softmax, dropout: 0}" +
                        options + "}",
                    "test.yaml");
  return config;
}

struct Built {
  ParameterStore store{9, &step, DType::float64};
  std::optional<Model> model;
  std::map<std::string, Array> values;
  explicit Built(const ModelConfig& config, bool is_pair = false) {
    const TaskInterface task{.vocabulary = 300, .padded_length = 50, .outputs = 3, .is_pair = is_pair};
    model.emplace(Scope(store), config, task, [&](const Scope& scope, const AttentionShape& shape) {
      return find_attention_kind(config.attention.kind()).build(config.attention, scope, shape);
    });
    store.flatten();
    for (const Parameter& parameter : store.parameters()) values[parameter.path] = array_of(parameter.master);
  }
  bool has(const std::string& path) const { return values.contains(path); }
};

const std::string layer = "encoder.layers.0.";
const std::string product = layer + "attention.query_key_value.", output = layer + "attention.output.";

double largest(const Array& x) {
  double out = 0;
  for (const double value : x.values) out = std::max(out, std::abs(value));
  return out;
}

TEST(ModelOptions, attention_may_be_narrower_or_wider_than_the_rows) {
  for (const std::int64_t inner : {8, 48}) {
    Built built(config_of(", attention_width: " + std::to_string(inner)));
    EXPECT_EQ(built.values.at(product + "weight").shape, (Shape{3 * inner, 24}));
    EXPECT_EQ(built.values.at(output + "weight").shape, (Shape{24, inner}));
    const SequenceLayout layout = layout_of({5, 3}, 50);
    EXPECT_EQ((*built.model)(zeros({8}, DType::int32), layout, true).shape(), (Shape{2, 3}));
  }
  const Error error = thrown_error([] { config_of(", attention_width: 18"); });
  EXPECT_TRUE(mentions(error, "heads must divide model.attention_width (18), got 4"));
}

TEST(ModelOptions, projections_may_have_no_bias) {
  const Built with(config_of("")), without(config_of(", attention_bias: false"));
  for (const std::string& path : {product + "bias", output + "bias"}) {
    EXPECT_TRUE(with.has(path)) << path;
    EXPECT_FALSE(without.has(path)) << path;
  }
  EXPECT_EQ(without.values.size() + 2, with.values.size());
  EXPECT_TRUE(without.has(layer + "feed_forward.up.bias"));
}

/// U(-bound, bound) fills its range and has variance bound^2 / 3.
void expect_uniform(const Array& x, double bound) {
  double squares = 0;
  for (const double value : x.values) squares += value * value;
  EXPECT_LE(largest(x), bound);
  EXPECT_GT(largest(x), 0.95 * bound);
  EXPECT_NEAR(squares / static_cast<double>(x.count()), bound * bound / 3, 0.15 * bound * bound / 3);
}

TEST(ModelOptions, initial_values_follow_their_law) {
  const Built uniform(config_of("")), xavier(config_of(", attention_width: 48, initial: xavier"));
  expect_uniform(uniform.values.at(product + "weight"), 1 / std::sqrt(24.0));
  expect_uniform(uniform.values.at(layer + "feed_forward.down.weight"), 1 / std::sqrt(40.0));
  EXPECT_NEAR(largest(uniform.values.at("encoder.token_embedding.weight")), 0.08, 0.02);

  // Of each projection by itself: 24 columns to 48, and 48 to 24.
  expect_uniform(xavier.values.at(product + "weight"), std::sqrt(6.0 / 72));
  expect_uniform(xavier.values.at(output + "weight"), std::sqrt(6.0 / 72));
  expect_uniform(xavier.values.at(layer + "feed_forward.up.weight"), std::sqrt(6.0 / 64));
  EXPECT_EQ(largest(xavier.values.at(product + "bias")), 0);
  EXPECT_EQ(largest(xavier.values.at(layer + "feed_forward.up.bias")), 0);
  double squares = 0;
  const Array& table = xavier.values.at("encoder.token_embedding.weight");
  for (const double value : table.values) squares += value * value;
  EXPECT_NEAR(squares / static_cast<double>(table.count()), 1, 0.1);
  EXPECT_EQ(xavier.values.at("head.hidden.weight").values, uniform.values.at("head.hidden.weight").values);
}

std::vector<double> dense(const Built& built, const std::string& path, const std::vector<double>& x,
                          bool is_relu) {
  const Array &w = built.values.at(path + ".weight"), &b = built.values.at(path + ".bias");
  std::vector<double> y(b.values);
  for (std::size_t i = 0; i < y.size(); ++i) {
    for (std::size_t j = 0; j < x.size(); ++j)
      y[i] += x[j] * w.at(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
    if (is_relu) y[i] = std::max(y[i], 0.0);
  }
  return y;
}

TEST(ModelOptions, a_pairs_head_may_see_the_rows_alone) {
  const ModelConfig config = config_of(", pair_features: rows, pooling: mean");
  const Built built(config, true);
  const TaskInterface task{.vocabulary = 300, .padded_length = 50, .outputs = 3, .is_pair = true};
  ParameterStore store{9, &step, DType::float64};
  const ExampleHead head(Scope(store).child("head"), config, task);
  store.flatten();  // the same seed and paths: the same values as in `built`
  const Array rows = normal_array({4, 24}, 90);
  std::vector<double> expected;
  for (std::int64_t pair = 0; pair < 2; ++pair) {
    std::vector<double> features;
    for (const std::int64_t row : {pair, pair + 2})
      for (std::int64_t c = 0; c < 24; ++c) features.push_back(rows.at(row, c));
    const auto hidden = dense(built, "head.second_hidden", dense(built, "head.hidden", features, true), true);
    EXPECT_EQ(hidden.size(), 5u);
    for (const double logit : dense(built, "head.output", hidden, false)) expected.push_back(logit);
  }
  EXPECT_EQ(difference(head(tensor_of(rows, DType::float64)).to_vector<double>(), expected, 1e-12), "");
}

}  // namespace
}  // namespace tern::test
