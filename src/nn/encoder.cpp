#include "tern/encoder.h"

#include <cmath>

#include "tern/memory.h"

namespace tern {

void ModelConfig::fields(Fields& f) {
  f("width", width, "columns of every token's row", between(1, 65536));
  f("heads", heads, "attention heads; must divide width", between(1, 65535));
  f("hidden_width", hidden_width, "columns inside the feed-forward block", between(1, 1 << 20));
  f("layers", layers, "encoder layers", between(1, 1000));
  f("head_width", head_width, "hidden columns of the classifier", between(1, 1 << 20));
  f("attention_width", attention_width,
    "columns of queries, keys and values, all heads together; 0 means width", between(0, 65536));
  f("attention_bias", attention_bias, "whether the attention layer's projections have a bias");
  f("dropout", dropout, "dropout rate of embeddings and blocks", at_least(0) && below(1));
  f("norm", norm, "layer norm before each block (LRA) or after each sum (BERT)");
  f("positions", positions,
    "learned table, fixed sinusoids, rotary (queries and keys are turned by their position), or none");
  f("pooling", pooling,
    "mean over the padded length (as published), mean over real tokens, or the first token");
  f("pair_features", pair_features,
    "what a pair's head sees: a, b, a * b and a - b, or a and b alone, with one more hidden layer");
  f("initial", initial, "initial values of the encoder's weights");
  f("shared_layers", shared_layers, "one block's weights used by all layers");
  f("recompute", recompute,
    "compute activations again in the backward pass: less memory, about a third more time");
  f("attention", attention, "the attention mechanism");
  f.require(heads > 0 && inner_width() % heads == 0, "heads",
            format_text("must divide {} ({})", attention_width > 0 ? "model.attention_width" : "model.width",
                        inner_width()));
  f.require(positions != PositionKind::rotary || heads < 1 || inner_width() / heads % 2 == 0, "positions",
            format_text("needs heads of an even width to be rotary, not {} / {}", inner_width(), heads));
  f.require(pair_features != PairFeatures::rows || head_width > 1, "pair_features",
            format_text("needs model.head_width of at least 2, not {}, to be rows", head_width));
}

namespace {

/// For LinearOptions.
double initial_bound(const ModelConfig& config, std::int64_t inputs, std::int64_t outputs) {
  return config.initial == InitialValues::xavier ? std::sqrt(6 / static_cast<double>(inputs + outputs)) : 0;
}

double table_deviation(const ModelConfig& config) { return config.initial == InitialValues::xavier ? 1 : 0.02; }

/// Projections are told by their own width, not by that of the product that computes three of them.
AttentionLayerOptions attention_options(const ModelConfig& config, const Tensor& sinusoids) {
  return {sinusoids, initial_bound(config, config.width, config.inner_width()), config.attention_bias};
}

}  // namespace

FeedForward::FeedForward(const Scope& scope, const ModelConfig& config)
    : up_(scope.child("up"), config.width, config.hidden_width,
          LinearOptions{.bound = initial_bound(config, config.width, config.hidden_width)}),
      down_(scope.child("down"), config.hidden_width, config.width,
            LinearOptions{.bound = initial_bound(config, config.hidden_width, config.width)}),
      // the post-norm block (BERT) has no dropout inside
      dropout_(scope, config.norm == NormPlacement::pre ? config.dropout : 0.0) {}

Tensor FeedForward::operator()(const Tensor& x, const RowCoordinates& rows, bool training) const {
  return feed_forward(x, {up_.weight(), up_.bias(), down_.weight(), down_.bias()}, rows,
                      dropout_.options(training));
}

EncoderLayer::EncoderLayer(const Scope& scope, const ModelConfig& config, const AttentionShape& shape,
                           const MultiHeadAttention::Build& build, const AttentionLayerOptions& options)
    : attention_norm(scope.child("attention_norm"), config.width),
      attention(scope.child("attention"), config.width, shape, build, options),
      attention_dropout(scope.child("attention"), config.dropout),
      feed_forward_norm(scope.child("feed_forward_norm"), config.width),
      feed_forward(scope.child("feed_forward"), config),
      feed_forward_dropout(scope.child("feed_forward_output"), config.dropout),
      path(scope.path()) {}

Tensor sinusoidal_table(std::int64_t length, std::int64_t width) {
  std::vector<double> values(static_cast<std::size_t>(length * width));
  for (std::int64_t position = 0; position < length; ++position)
    for (std::int64_t c = 0; c < width; ++c) {
      const double angle = static_cast<double>(position) /
                           std::pow(10000.0, static_cast<double>(c / 2 * 2) / static_cast<double>(width));
      values[static_cast<std::size_t>(position * width + c)] = c % 2 == 0 ? std::sin(angle) : std::cos(angle);
    }
  return from_vector(values, {length, width});
}

namespace {

/// sinusoidal_table() where the parameters are, in the type that they are summed in.
Tensor sinusoids_for(const ParameterStore& store, std::int64_t length, std::int64_t width) {
  const Tensor values = cast(sinusoidal_table(length, width), accumulate_type(store.dtype()));
  const Tensor out = empty(values.shape(), values.dtype(), store.device());
  copy(values, out);
  return out;
}

}  // namespace

Encoder::Encoder(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
                 const MultiHeadAttention::Build& build)
    : config_(config),
      store_(scope.store()),
      token_embedding_(scope.child("token_embedding"), task.vocabulary, config.width, table_deviation(config)),
      dropout_(scope.child("embedding"), config.dropout) {
  const AttentionShape shape{config.heads, config.inner_width() / config.heads, task.padded_length};
  Tensor rotation;
  if (config.positions == PositionKind::learned)
    position_embedding_.emplace(scope.child("position_embedding"), task.padded_length, config.width);
  else if (config.positions == PositionKind::sinusoidal)
    sinusoids_ = sinusoids_for(store_, task.padded_length, config.width);
  else if (config.positions == PositionKind::rotary)
    rotation = sinusoids_for(store_, task.padded_length, shape.head_width);
  const Scope layers = scope.child("layers");
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const Scope own = layers.child(std::to_string(i));
    layers_.emplace_back(config.shared_layers ? layers.child("0").with_streams_of(own) : own, config, shape,
                         build, attention_options(config, rotation));
  }
  if (config.norm == NormPlacement::pre) final_norm_.emplace(scope.child("final_norm"), config.width);
}

Tensor Encoder::embed(const Tensor& tokens, const SequenceLayout& layout, bool training) {
  const ModuleScope memory("encoder.embedding");
  return token_embedding(tokens, token_embedding_.table(),
                         position_embedding_ ? position_embedding_->table() : sinusoids_, layout,
                         dropout_.options(training), store_.dtype());
}

ResidualNorm Encoder::run_layer(EncoderLayer& layer, const LayerNorm& next, const ResidualNorm& x,
                                const SequenceLayout& layout, bool training) {
  const ModuleScope memory(layer.path);
  const RowCoordinates rows = layout.token_rows();
  const bool is_pre = config_.norm == NormPlacement::pre;
  const LayerNorm& middle = is_pre ? layer.feed_forward_norm : layer.attention_norm;
  const Tensor attended = layer.attention(x.normalized, layout, training);
  const ResidualNorm y =
      middle(is_pre ? x.total : x.normalized, attended, rows, layer.attention_dropout.options(training));
  const Tensor transformed = layer.feed_forward(y.normalized, rows, training);
  return next(is_pre ? y.total : y.normalized, transformed, rows, layer.feed_forward_dropout.options(training));
}

Tensor Encoder::operator()(const Tensor& tokens, const SequenceLayout& layout, bool training) {
  const Tensor embedded = embed(tokens, layout, training);
  const bool is_pre = config_.norm == NormPlacement::pre;
  ResidualNorm x{embedded, is_pre ? layers_.front().attention_norm(embedded) : embedded};
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    EncoderLayer& layer = layers_[i];
    const bool is_last = i + 1 == layers_.size();
    const LayerNorm& next = !is_pre   ? layer.feed_forward_norm
                            : is_last ? *final_norm_
                                      : layers_[i + 1].attention_norm;
    if (!config_.recompute || !is_recording()) {
      x = run_layer(layer, next, x, layout, training);
      continue;
    }
    const auto again = [this, &layer, &next, layout, training](std::span<const Tensor> in) {
      const ResidualNorm y = run_layer(layer, next, {in[0], in[1]}, layout, training);
      return std::vector{y.total, y.normalized};
    };
    std::vector<Tensor> parameters = store_.leaves(layer.path + ".");
    for (const Tensor& leaf : next.leaves()) parameters.push_back(leaf);
    const std::vector<Tensor> y = checkpoint(again, std::vector{x.total, x.normalized}, parameters);
    x = {y[0], y[1]};
  }
  return x.normalized;
}

std::int64_t head_inputs(const ModelConfig& config, const TaskInterface& task) {
  if (!task.is_pair) return config.width;
  return (config.pair_features == PairFeatures::products ? 4 : 2) * config.width;
}

namespace {

std::optional<Linear> second_hidden(const Scope& scope, const ModelConfig& config, const TaskInterface& task) {
  if (!task.is_pair || config.pair_features == PairFeatures::products) return {};
  return Linear(scope.child("second_hidden"), config.head_width, config.head_width / 2, ActivationKind::relu);
}

}  // namespace

ExampleHead::ExampleHead(const Scope& scope, const ModelConfig& config, const TaskInterface& task)
    : pooling_(config.pooling),
      is_pair_(task.is_pair),
      pair_features_(config.pair_features),
      hidden_(scope.child("hidden"), head_inputs(config, task), config.head_width, ActivationKind::relu),
      second_hidden_(second_hidden(scope, config, task)),
      output_(scope.child("output"), second_hidden_ ? config.head_width / 2 : config.head_width, task.outputs) {
}

Tensor ExampleHead::pooled(const Tensor& x, const SequenceLayout& layout) const {
  switch (pooling_) {
    case Pooling::padded_mean:
      return sequence_mean(x, layout, layout.padded_length);
    case Pooling::mean:
      return sequence_mean(x, layout);
    case Pooling::first:
      return sequence_first(x, layout);
  }
  throw_error(ExitCode::internal, "model: unknown pooling");
}

Tensor ExampleHead::operator()(const Tensor& rows) const {
  const ModuleScope memory("head");
  if (!is_pair_) return output_(hidden_(rows));
  require(rows.size(0) % 2 == 0, "model: a pair task needs an even number of sequences, got {}", rows.size(0));
  const std::int64_t pairs = rows.size(0) / 2;
  const Tensor a = slice(rows, 0, 0, pairs), b = slice(rows, 0, pairs, pairs);
  if (second_hidden_) return output_((*second_hidden_)(hidden_(concatenate({a, b}, 1))));
  return output_(hidden_(concatenate({a, b, multiply(a, b), subtract(a, b)}, 1)));
}

TokenHead::TokenHead(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
                     const Embedding& tokens)
    : tokens_(tokens),
      transform_(scope.child("transform"), config.width, config.width, ActivationKind::gelu),
      norm_(scope.child("norm"), config.width),
      bias_(&scope.parameter("bias", {task.vocabulary}, constant(0))) {}

Tensor TokenHead::operator()(const Tensor& x) const {
  const ModuleScope memory("head");
  return linear(norm_(transform_(x)), cast(tokens_.table(), x.dtype()), bias_->value);
}

namespace {

std::variant<ExampleHead, TokenHead> make_head(const Scope& scope, const ModelConfig& config,
                                               const TaskInterface& task, const Encoder& encoder) {
  if (task.predicts_tokens) return TokenHead(scope, config, task, encoder.tokens());
  return ExampleHead(scope, config, task);
}

}  // namespace

Model::Model(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
             const MultiHeadAttention::Build& build)
    : encoder_(scope.child("encoder"), config, task, build),
      head_(make_head(scope.child("head"), config, task, encoder_)) {}

Tensor Model::operator()(const Tensor& tokens, const SequenceLayout& layout, bool training) {
  if (const auto* head = std::get_if<TokenHead>(&head_)) return (*head)(encoder_(tokens, layout, training));
  const auto& head = std::get<ExampleHead>(head_);
  const Tensor rows = head.pooled(encoder_(tokens, layout, training), layout);
  return head(rows);
}

}  // namespace tern
