// What the encoder knows of places, and the head that predicts tokens.
#include <gtest/gtest.h>

#include "support/array.h"
#include "support/gradient_check.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/encoder.h"

namespace tern::test {
namespace {

constexpr std::uint32_t step = 4;
const std::vector<int> lengths{12, 1, 7};

ModelConfig config_of(const std::string& positions) {
  ModelConfig config;
  config::load_text(
      config,
      "{width: 16, heads: 2, hidden_width: 24, layers: 2, head_width: 10, dropout: 0, pooling: mean, "
      "attention: {kind: softmax, dropout: 0}, positions: " +
          positions + "}",
      "test.yaml");
  return config;
}

/// A model in float64 in a store of its own.
struct Built {
  ParameterStore store{9, &step, DType::float64};
  std::optional<Model> model;
  Built(const ModelConfig& config, const TaskInterface& task) {
    model.emplace(Scope(store), config, task, [&](const Scope& scope, const AttentionShape& shape) {
      return find_attention_kind(config.attention.kind()).build(config.attention, scope, shape);
    });
    store.flatten();
  }
};

TaskInterface task_of(bool predicts_tokens = false) {
  return {.vocabulary = 13, .padded_length = 400, .outputs = 5, .predicts_tokens = predicts_tokens};
}

/// Sequences whose first token stands at `first`, tokens `gap` places apart.
SequenceLayout layout_at(std::int32_t first, std::int32_t gap) {
  std::vector<std::int32_t> offsets{0}, position;
  for (const int length : lengths) {
    for (int i = 0; i < length; ++i) position.push_back(first + i * gap);
    offsets.push_back(offsets.back() + length);
  }
  return make_layout(offsets, position, {40, 41, 42}, 400);
}

Tensor tokens_of(const std::function<int(int)>& place) {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back(place(i) * place(i) % 13);
  return from_vector(tokens, {20});
}
const Tensor in_order = tokens_of([](int i) { return i; });
/// The first sequence read backwards.
const Tensor turned_round = tokens_of([](int i) { return i < 12 ? 11 - i : i; });

std::vector<double> logits(const Built& built, const Tensor& tokens, const SequenceLayout& layout) {
  return const_cast<Model&>(*built.model)(tokens, layout, false).to_vector<double>();
}

TEST(Positions, rotary_ones_are_relative) {
  const Built built(config_of("rotary"), task_of());
  const std::vector<double> here = logits(built, in_order, layout_at(0, 3));
  EXPECT_EQ(difference(logits(built, in_order, layout_at(350, 3)), here, 1e-10), "");
  EXPECT_NE(difference(logits(built, in_order, layout_at(0, 4)), here, 1e-4), "") << "distances count";
  EXPECT_NE(difference(logits(built, turned_round, layout_at(0, 3)), here, 1e-4), "") << "order counts";
}

TEST(Positions, without_them_a_sequence_is_a_bag_of_tokens) {
  const Built built(config_of("none"), task_of());
  const std::vector<double> here = logits(built, in_order, layout_at(0, 1));
  EXPECT_EQ(difference(logits(built, turned_round, layout_at(5, 7)), here, 1e-10), "");
}

TEST(Positions, only_learned_ones_are_parameters) {
  const std::int64_t learned = Built(config_of("learned"), task_of()).store.count();
  for (const std::string positions : {"sinusoidal", "rotary", "none"})
    EXPECT_EQ(Built(config_of(positions), task_of()).store.count(), learned - 400 * 16) << positions;
}

TEST(Positions, rotary_needs_heads_of_even_width) {
  ModelConfig config;
  const Error error =
      thrown_error([&] { config::load_text(config, "{width: 15, heads: 3, positions: rotary}", "test.yaml"); });
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "positions needs heads of an even width to be rotary, not 15 / 3, got rotary"));
}

/// The gradient of every parameter against differences.
void check_gradient(const ModelConfig& config, const TaskInterface& task) {
  Built built(config, task);
  const SequenceLayout layout = layout_at(2, 3);
  const Tensor y = (*built.model)(in_order, layout, true), weights = random_weights(std::span(&y, 1), 50)[0];
  backward(std::span(&y, 1), std::span(&weights, 1));
  const auto value = [&] {
    const NoGradientScope no_gradient;
    return sum(multiply((*built.model)(in_order, layout, true), weights)).item();
  };
  int checked = 0;
  for (const Parameter& parameter : built.store.parameters()) {
    const Array direction = normal_array(parameter.master.shape(), 60),
                gradient = array_of(gradient_of(parameter.value));
    const Array start = array_of(parameter.master);
    double slope = 0;
    for (std::int64_t i = 0; i < direction.count(); ++i) slope += direction[i] * gradient[i];
    const auto at = [&](double along) {
      Array moved = start;
      for (std::int64_t i = 0; i < moved.count(); ++i) moved[i] += along * direction[i];
      copy(tensor_of(moved, DType::float64), parameter.master);
      return value();
    };
    constexpr double h = 1e-5;
    const double difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
    at(0);
    EXPECT_NEAR(slope, difference, 1e-6 * std::max(1.0, std::abs(difference))) << parameter.path;
    checked += std::abs(difference) > 1e-6;
  }
  EXPECT_GT(checked, 20);
}

/// With the token head, which is smooth everywhere; its table is used twice.
TEST(Positions, gradients_of_every_parameter) {
  for (const std::string positions : {"learned", "sinusoidal", "rotary", "none"}) {
    SCOPED_TRACE(positions);
    check_gradient(config_of(positions), task_of(true));
  }
}

TEST(TokenHead, gives_a_row_of_logits_for_each_token) {
  const Built built(config_of("learned"), task_of(true));
  EXPECT_EQ(logits(built, in_order, layout_at(0, 1)).size(), 20u * 13);
}

/// Linear-GELU-LayerNorm, then products with the token table, by their definitions.
TEST(TokenHead, follows_its_formula) {
  ParameterStore store{9, &step, DType::float64};
  const Embedding table(Scope(store).child("table"), 5, 4);
  ModelConfig config;
  config.width = 4;
  const TokenHead head(Scope(store).child("head"), config, {.vocabulary = 5}, table);
  store.flatten();
  std::map<std::string, Array> w;
  std::uint64_t seed = 70;
  for (const Parameter& parameter : store.parameters()) {
    w[parameter.path] = normal_array(parameter.master.shape(), seed++);
    copy(tensor_of(w[parameter.path], DType::float64), parameter.master);
  }
  const Array x = normal_array({3, 4}, 80);
  Array expected({3, 5});
  for (std::int64_t r = 0; r < 3; ++r) {
    std::vector<double> h(4);
    double mean = 0, variance = 0;
    for (std::int64_t i = 0; i < 4; ++i) {
      double z = w["head.transform.bias"][i];
      for (std::int64_t j = 0; j < 4; ++j) z += x.at(r, j) * w["head.transform.weight"].at(i, j);
      h[static_cast<std::size_t>(i)] = z * 0.5 * std::erfc(-z / std::sqrt(2.0));
      mean += h[static_cast<std::size_t>(i)] / 4;
    }
    for (const double v : h) variance += (v - mean) * (v - mean) / 4;
    for (std::int64_t id = 0; id < 5; ++id) {
      expected.at(r, id) = w["head.bias"][id];
      for (std::int64_t i = 0; i < 4; ++i)
        expected.at(r, id) +=
            ((h[static_cast<std::size_t>(i)] - mean) / std::sqrt(variance + 1e-5) * w["head.norm.weight"][i] +
             w["head.norm.bias"][i]) *
            w["table.weight"].at(id, i);
    }
  }
  EXPECT_EQ(difference(head(tensor_of(x, DType::float64)).to_vector<double>(), expected.values, 1e-12), "");
}

}  // namespace
}  // namespace tern::test
