#include "tern/encoder.h"

#include <set>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/golden.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/memory.h"

namespace tern::test {
namespace {

constexpr std::uint32_t step = 4;

/// A model in a store of its own.
struct Built {
  ParameterStore store;
  std::optional<Model> model;

  Built(const ModelConfig& config, const TaskInterface& task, DType dtype) : store(9, &step, dtype) {
    model.emplace(Scope(store), config, task, [&](const Scope& scope, const AttentionShape& shape) {
      return find_attention_kind(config.attention.kind()).build(config.attention, scope, shape);
    });
    store.flatten();
  }
};

ModelConfig config_from(const std::string& text) {
  ModelConfig config;
  config::load_text(config, text, "test.yaml");
  return config;
}

struct Case {
  ModelConfig config;
  TaskInterface task;
  SequenceLayout layout;
  Tensor tokens, labels;
};

Case case_of(const Golden& golden) {
  const io::Json &model = golden.config().at("model"), &task = golden.config().at("task");
  const std::vector<std::int32_t> offsets = golden.integers("offsets");
  std::vector<std::int64_t> sample(offsets.size() - 1);
  for (std::size_t s = 0; s < sample.size(); ++s) sample[s] = static_cast<std::int64_t>(s);
  const TaskInterface interface {
    .vocabulary = task.at("vocabulary"), .padded_length = task.at("padded_length"),
    .outputs = task.at("outputs"), .is_pair = task.at("is_pair")
  };
  return {config_from(io::dump_json(model)), interface,
          make_layout(offsets, golden.integers("position"), sample, interface.padded_length),
          golden.tensor("tokens"), golden.tensor("labels")};
}

Tensor mean_loss(const Tensor& logits, const Case& c) {
  return affine(cross_entropy(logits, c.labels), 1.0 / static_cast<double>(c.labels.size(0)));
}

class GoldenEncoder : public testing::TestWithParam<std::string> {};

TEST_P(GoldenEncoder, logits_loss_and_every_gradient) {
  const Golden golden(GetParam());
  const Case c = case_of(golden);
  Built built(c.config, c.task, DType::float64);
  std::set<std::string> paths;
  for (const Parameter& parameter : built.store.parameters()) {
    paths.insert(parameter.path);
    ASSERT_TRUE(golden.has("weight." + parameter.path)) << parameter.path;
    copy(golden.tensor("weight." + parameter.path), parameter.value);
  }
  for (const std::string& name : golden.names("weight."))
    EXPECT_TRUE(paths.contains(name)) << name << " is missing";
  const Tensor logits = (*built.model)(c.tokens, c.layout, false), loss = mean_loss(logits, c);
  backward(loss);
  EXPECT_EQ(difference(logits.to_vector<double>(), golden.values("logits"), 1e-9), "");
  EXPECT_EQ(difference(std::vector{loss.item()}, golden.values("loss"), 1e-9), "");
  for (const Parameter& parameter : built.store.parameters())
    EXPECT_EQ(difference(gradient_of(parameter.value).to_vector<double>(),
                         golden.values("gradient." + parameter.path), 1e-9),
              "")
        << parameter.path;
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenEncoder, testing::ValuesIn(golden_names("encoder_")),
                         [](const auto& info) { return info.param; });

TEST(GoldenEncoders, are_all_there) { EXPECT_GE(golden_names("encoder_").size(), 11); }

const char* const small =
    "{width: 16, heads: 2, hidden_width: 24, layers: 3, head_width: 10, dropout: 0.2, attention: {kind: "
    "softmax}}";

Case small_case(const std::string& text) {
  const SequenceLayout layout = layout_of({20, 7, 1, 13}, 20);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < layout.tokens(); ++i) tokens.push_back(i * i % 13);
  return {config_from(text),
          {13, 20, 5, false},
          layout,
          from_vector(tokens, {layout.tokens()}),
          from_vector(std::vector<std::int32_t>{0, 3, 1, 4}, {4})};
}

/// Loss and the flat gradient of one training pass.
std::vector<float> pass(const Case& c, std::int64_t* live = nullptr) {
  Built built(c.config, c.task, DType::float32);
  const std::int64_t before = memory_statistics().live_bytes;
  const Tensor loss = mean_loss((*built.model)(c.tokens, c.layout, true), c);
  if (live != nullptr) *live = memory_statistics().live_bytes - before;
  backward(loss);
  std::vector<float> out = built.store.gradients().to_vector<float>();
  out.push_back(static_cast<float>(loss.item()));
  return out;
}

TEST(Encoder, recompute_gives_the_same_bits_with_less_memory) {
  for (const std::string change :
       {"", "shared_layers: true", "norm: post", "attention: {kind: yoso, bits: 3, hashes: 4}"}) {
    Case c = small_case(small);
    if (!change.empty()) config::load_text(c.config, change, "change.yaml");
    std::int64_t kept = 0, recomputed = 0;
    const std::vector<float> plain = pass(c, &kept);
    c.config.recompute = true;
    EXPECT_EQ(pass(c, &recomputed), plain) << change;
    EXPECT_LT(recomputed, kept / 2) << change;
  }
}

TEST(Encoder, gradients_of_recomputed_layers_are_ready_once_and_complete) {
  const Case c = small_case(std::string(small).insert(1, "recompute: true, "));
  Built built(c.config, c.task, DType::float32);
  std::vector<std::pair<Tensor, std::vector<float>>> ready;
  backward(mean_loss((*built.model)(c.tokens, c.layout, true), c),
           [&](const Tensor& gradient) { ready.emplace_back(gradient, gradient.to_vector<float>()); });
  EXPECT_EQ(ready.size(), built.store.parameters().size());
  for (const auto& [gradient, then] : ready) EXPECT_EQ(gradient.to_vector<float>(), then);
}

TEST(Encoder, same_step_same_bits_for_any_thread_count) {
  const Case c = small_case(small);
  const int before = threads();
  set_threads(1);
  const std::vector<float> one = pass(c);
  for (const int count : {2, 3}) {
    set_threads(count);
    EXPECT_EQ(pass(c), one) << count << " threads";
  }
  set_threads(before);
}

TEST(Encoder, dropout_depends_on_training_and_step) {
  const Case c = small_case(small);
  std::uint32_t now = 1;
  ParameterStore store(9, &now);
  Model model(Scope(store), c.config, c.task, [&](const Scope& scope, const AttentionShape& shape) {
    return find_attention_kind("softmax").build(c.config.attention, scope, shape);
  });
  const auto run = [&](bool training) { return model(c.tokens, c.layout, training).to_vector<float>(); };
  const std::vector<float> trained = run(true), evaluated = run(false);
  now = 2;
  EXPECT_NE(run(true), trained);
  EXPECT_EQ(run(false), evaluated);
  now = 1;
  EXPECT_EQ(run(true), trained);
}

TEST(Encoder, pre_norm_blocks_alone_have_dropout_inside) {
  for (const std::string norm : {"pre", "post"}) {
    const Case c = small_case("{width: 16, heads: 2, hidden_width: 24, dropout: 0.5, norm: " + norm + "}");
    ParameterStore store(9, &step);
    const FeedForward block(Scope(store), c.config);
    const Tensor x = full({c.layout.tokens(), 16}, 1.0, DType::float32);
    const auto values = [&](bool training) {
      return block(x, c.layout.token_rows(), training).to_vector<float>();
    };
    EXPECT_EQ(values(true) == values(false), norm == "post") << norm;
  }
}

TEST(Encoder, each_site_of_a_layer_drops_other_entries) {
  const ModelConfig config = config_from(small);
  ParameterStore store(9, &step);
  const Scope scope = Scope(store).child("layer");
  const auto build = [&](const Scope& inner, const AttentionShape& shape) {
    return find_attention_kind("none").build(Choice(attention_choices(), "none"), inner, shape);
  };
  const EncoderLayer layer(scope, config, {2, 8, 20}, build, {});
  std::set<std::pair<std::uint32_t, std::uint32_t>> keys;
  for (const RandomStream& stream :
       {layer.attention_dropout.options(true).stream, layer.feed_forward_dropout.options(true).stream,
        scope.child("feed_forward").stream("dropout"), scope.child("attention").stream("weight_dropout")})
    keys.emplace(stream.key.low, stream.key.high);
  EXPECT_EQ(keys.size(), 4u);
}

TEST(Encoder, every_parameter_of_the_published_listops_model_is_there) {
  ModelConfig config;
  const Built built(config, {.vocabulary = 32, .padded_length = 2048, .outputs = 10}, DType::float32);
  EXPECT_EQ(built.store.count(), 209802);
}

TEST(Encoder, sinusoids_follow_their_formula) {
  const Array table = array_of(sinusoidal_table(7, 5));
  for (std::int64_t p = 0; p < 7; ++p)
    for (std::int64_t c = 0; c < 5; ++c) {
      const double angle =
          static_cast<double>(p) * std::exp(-std::log(10000.0) * static_cast<double>(c - c % 2) / 5);
      EXPECT_NEAR(table.at(p, c), c % 2 ? std::cos(angle) : std::sin(angle), 1e-12);
    }
}

TEST(Encoder, mistakes_are_named) {
  const Error error = thrown_error([] { config_from("{width: 30, heads: 4}"); });
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "heads"));
  Case c = small_case(small);
  Built built(c.config, c.task, DType::float32);
  const Tensor wrong = full({c.layout.tokens()}, 13, DType::int32);
  EXPECT_TRUE(mentions(thrown_error([&] { (*built.model)(wrong, c.layout, false); }),
                       "ids must lie in [0, 13), got 13"));
}

}  // namespace
}  // namespace tern::test
