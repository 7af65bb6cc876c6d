// The Transformer encoder on ragged batches, its pooling and its heads.
#pragma once

#include <deque>

#include "tern/attention.h"
#include "tern/config.h"
#include "tern/layers.h"

namespace tern {

/// Where layer norm stands: before each block with a final one (LRA models), or after each sum (BERT).
enum class NormPlacement { pre, post };
constexpr auto enum_names(NormPlacement) {
  return std::array{EnumName{NormPlacement::pre, "pre"}, EnumName{NormPlacement::post, "post"}};
}

enum class PositionKind { learned, sinusoidal };
constexpr auto enum_names(PositionKind) {
  return std::array{EnumName{PositionKind::learned, "learned"},
                    EnumName{PositionKind::sinusoidal, "sinusoidal"}};
}

enum class Pooling { padded_mean, mean, first };
constexpr auto enum_names(Pooling) {
  return std::array{EnumName{Pooling::padded_mean, "padded_mean"}, EnumName{Pooling::mean, "mean"},
                    EnumName{Pooling::first, "first"}};
}

struct ModelConfig {
  std::int64_t width = 64;
  std::int64_t heads = 2;
  std::int64_t hidden_width = 128;
  std::int64_t layers = 2;
  std::int64_t head_width = 128;
  double dropout = 0.1;
  NormPlacement norm = NormPlacement::pre;
  PositionKind positions = PositionKind::learned;
  Pooling pooling = Pooling::padded_mean;
  bool shared_layers = false;
  bool recompute = false;
  Choice attention{attention_choices(), "softmax"};
  void fields(Fields& f);
};

/// What the model must know of the task.
struct TaskInterface {
  std::int64_t vocabulary = 0;     ///< rows of the token table
  std::int64_t padded_length = 0;  ///< rows of the position table, and the divisor of padded_mean
  std::int64_t outputs = 0;        ///< classes, or 1 for a regression
  bool is_pair = false;            ///< two sequences for each label
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
               const MultiHeadAttention::Build& build);
};

/// Embedding, layers, final norm (pre placement only): tokens [tokens] int32 -> [tokens, width].
class Encoder {
 public:
  Encoder(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
          const MultiHeadAttention::Build& build);
  Tensor operator()(const Tensor& tokens, const SequenceLayout& layout, bool training);

 private:
  Tensor embed(const Tensor& tokens, const SequenceLayout& layout, bool training);
  /// (sum, normalized) before a layer -> the same after it; `next` is the norm that follows.
  ResidualNorm run_layer(EncoderLayer& layer, const LayerNorm& next, const ResidualNorm& x,
                         const SequenceLayout& layout, bool training);

  ModelConfig config_;
  ParameterStore& store_;
  Embedding token_embedding_;
  std::optional<Embedding> position_embedding_;
  Tensor sinusoids_;
  Dropout dropout_;
  std::deque<EncoderLayer> layers_;
  std::optional<LayerNorm> final_norm_;
};

/// sin and cos of position / 10000^(2 i / width) in even and odd columns (Vaswani et al. 2017, section 3.5):
/// [length, width] float64 on the host.
Tensor sinusoidal_table(std::int64_t length, std::int64_t width);

/// Encoder, pooling and Linear-ReLU-Linear head. A pair task gives its head [a, b, a * b, a - b] of the pooled
/// rows; its batch holds all first sequences, then all second ones.
class Model {
 public:
  Model(const Scope& scope, const ModelConfig& config, const TaskInterface& task,
        const MultiHeadAttention::Build& build);
  /// tokens [tokens] int32 -> [examples, outputs].
  Tensor operator()(const Tensor& tokens, const SequenceLayout& layout, bool training);

 private:
  Tensor pooled(const Tensor& x, const SequenceLayout& layout) const;
  Pooling pooling_;
  bool is_pair_;
  Encoder encoder_;
  Linear hidden_, output_;
};

}  // namespace tern
