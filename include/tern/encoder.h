// The Transformer encoder on ragged batches, its pooling and its heads.
#pragma once

#include <deque>
#include <optional>
#include <variant>

#include "tern/attention.h"
#include "tern/config.h"
#include "tern/layers.h"

namespace tern {

/// Where layer norm stands: before each block with a final one (LRA models), or after each sum (BERT).
enum class NormPlacement { pre, post };
constexpr auto enum_names(NormPlacement) {
  return std::array{EnumName{NormPlacement::pre, "pre"}, EnumName{NormPlacement::post, "post"}};
}

/// How the encoder knows places: a row added to each token's (learned, or fixed sinusoids), queries and keys
/// turned by their position (rotary), or not at all.
enum class PositionKind { learned, sinusoidal, rotary, none };
constexpr auto enum_names(PositionKind) {
  return std::array{EnumName{PositionKind::learned, "learned"},
                    EnumName{PositionKind::sinusoidal, "sinusoidal"}, EnumName{PositionKind::rotary, "rotary"},
                    EnumName{PositionKind::none, "none"}};
}

enum class Pooling { padded_mean, mean, first };
constexpr auto enum_names(Pooling) {
  return std::array{EnumName{Pooling::padded_mean, "padded_mean"}, EnumName{Pooling::mean, "mean"},
                    EnumName{Pooling::first, "first"}};
}

/// What the weights of the encoder start from. uniform: U(-1, 1) / sqrt(inputs), biases too, tables N(0,
/// 0.02^2). xavier: U(-1, 1) sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), biases 0, the token table
/// N(0, 1).
enum class InitialValues { uniform, xavier };
constexpr auto enum_names(InitialValues) {
  return std::array{EnumName{InitialValues::uniform, "uniform"}, EnumName{InitialValues::xavier, "xavier"}};
}

/// What the head of a pair task sees of the pooled rows a and b: [a, b, a * b, a - b], or [a, b], with one more
/// Linear-ReLU of half the width in the head.
enum class PairFeatures { products, rows };
constexpr auto enum_names(PairFeatures) {
  return std::array{EnumName{PairFeatures::products, "products"}, EnumName{PairFeatures::rows, "rows"}};
}

struct ModelConfig {
  std::int64_t width = 64;
  std::int64_t heads = 2;
  std::int64_t hidden_width = 128;
  std::int64_t layers = 2;
  std::int64_t head_width = 128;
  std::int64_t attention_width = 0;
  bool attention_bias = true;
  double dropout = 0.1;
  NormPlacement norm = NormPlacement::pre;
  PositionKind positions = PositionKind::learned;
  Pooling pooling = Pooling::padded_mean;
  PairFeatures pair_features = PairFeatures::products;
  InitialValues initial = InitialValues::uniform;
  bool shared_layers = false;
  bool recompute = false;
  Choice attention{attention_choices(), "softmax"};
  void fields(Fields& f);
  /// Columns of queries, keys and values, all heads together.
  std::int64_t inner_width() const { return attention_width > 0 ? attention_width : width; }
};

/// What the model must know of the task.
struct TaskInterface {
  std::int64_t vocabulary = 0;     ///< rows of the token table
  std::int64_t padded_length = 0;  ///< rows of the position table, and the divisor of padded_mean
  std::int64_t outputs = 0;        ///< classes, or 1 for a regression
  bool is_pair = false;            ///< two sequences for each label
  bool is_regression = false;      ///< the label is a number: one output
  std::int64_t ids = 0;            ///< data hold ids below this one; 0: all of the vocabulary
  bool predicts_tokens = false;    ///< the head predicts an id for each token in place of a label
};

/// Linear-GELU-dropout-Linear.
class FeedForward {
 public:
  FeedForward(const Scope& scope, const ModelConfig& config);
  Tensor operator()(const Tensor& x, const RowCoordinates& rows, bool training) const;

 private:
  Linear up_, down_;
  Dropout dropout_;
};

struct EncoderLayer {
  LayerNorm attention_norm;
  MultiHeadAttention attention;
  Dropout attention_dropout;
  LayerNorm feed_forward_norm;
  FeedForward feed_forward;
  Dropout feed_forward_dropout;
  std::string path;
  EncoderLayer(const Scope& scope, const ModelConfig& config, const AttentionShape& shape,
               const MultiHeadAttention::Build& build, const AttentionLayerOptions& options);
};

/// Embedding, layers, final norm (pre placement only): tokens [tokens] int32 -> [tokens, width].
class Encoder {
 public:
  Encoder(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
          const MultiHeadAttention::Build& build);
  Tensor operator()(const Tensor& tokens, const SequenceLayout& layout, bool training);
  const Embedding& tokens() const { return token_embedding_; }

 private:
  Tensor embed(const Tensor& tokens, const SequenceLayout& layout, bool training);
  /// (sum, normalized) before a layer -> the same after it; `next` is the norm that follows.
  ResidualNorm run_layer(EncoderLayer& layer, const LayerNorm& next, const ResidualNorm& x,
                         const SequenceLayout& layout, bool training);

  ModelConfig config_;
  ParameterStore& store_;
  Embedding token_embedding_;
  std::optional<Embedding> position_embedding_;
  Tensor sinusoids_;  ///< added to the rows of tokens
  Dropout dropout_;
  std::deque<EncoderLayer> layers_;
  std::optional<LayerNorm> final_norm_;
};

/// sin and cos of position / 10000^(2 i / width) in even and odd columns (Vaswani et al. 2017, section 3.5):
/// [length, width] float64 on the host.
Tensor sinusoidal_table(std::int64_t length, std::int64_t width);

/// Columns that the head of examples sees.
std::int64_t head_inputs(const ModelConfig& config, const TaskInterface& task);

/// Pooling and Linear-ReLU-Linear, with PairFeatures in front for a pair task, whose batch holds all first
/// sequences, then all second ones.
class ExampleHead {
 public:
  ExampleHead(const Scope& scope, const ModelConfig& config, const TaskInterface& task);
  /// [tokens, width] -> [sequences, width].
  Tensor pooled(const Tensor& x, const SequenceLayout& layout) const;
  /// Pooled rows -> [examples, outputs].
  Tensor operator()(const Tensor& rows) const;

 private:
  Pooling pooling_;
  bool is_pair_;
  PairFeatures pair_features_;
  Linear hidden_;
  std::optional<Linear> second_hidden_;
  Linear output_;
};

/// Linear-GELU-LayerNorm, then products with the rows of the token table, and a bias (Devlin et al. 2019,
/// appendix A.2): [tokens, width] -> [tokens, vocabulary].
class TokenHead {
 public:
  TokenHead(const Scope& scope, const ModelConfig& config, const TaskInterface& task, const Embedding& tokens);
  Tensor operator()(const Tensor& x) const;

 private:
  Embedding tokens_;
  Linear transform_;
  LayerNorm norm_;
  Parameter* bias_;
};

/// Encoder and the head that the task asks for.
class Model {
 public:
  Model(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
        const MultiHeadAttention::Build& build);
  /// tokens [tokens] int32 -> [examples, outputs], or [tokens, vocabulary] where the task predicts tokens.
  Tensor operator()(const Tensor& tokens, const SequenceLayout& layout, bool training);

 private:
  Encoder encoder_;
  std::variant<ExampleHead, TokenHead> head_;
};

}  // namespace tern
