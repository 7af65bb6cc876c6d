#include <algorithm>
#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Exact attention to the segments of keys that a small network estimates to matter, mixed with an average over
/// all keys. Source: Lee et al. 2024, "SEA: Sparse Linear Attention with Estimated Attention Mask", arXiv
/// 2310.01777, section 3, in the form for encoders and without its losses of distillation.
class SeaAttention final : public Attention {
 public:
  struct Config {
    std::int64_t segments = 128;
    std::int64_t keys = 64;
    std::int64_t channels = 2;
    std::int64_t features = 0;
    std::int64_t redraw_interval = 1000;
    void fields(Fields& f) {
      f("segments", segments, "columns of the estimate, each for a segment of the sequence's keys",
        between(1, 1024));
      f("keys", keys, "keys that a query sees exactly in each head, on average", between(1, 65536));
      f("channels", channels, "channels of the convolutions for each head", between(1, 16));
      f("features", features,
        "random features of the estimate; 0 means head width * ln(head width), rounded up to a "
        "multiple of 8",
        between(0, 65536));
      f("redraw_interval", redraw_interval, "steps after which the features are drawn anew; 0 means never",
        between(0, 1'000'000'000));
    }
    /// Rows of a multiple of 8 features lie in packs of 16 bytes, which products on tensor cores read.
    std::int64_t feature_count(std::int64_t width) const {
      if (features > 0) return features;
      const auto d = static_cast<double>(width);
      return std::max<std::int64_t>(8, (std::llround(d * std::log(d)) + 7) / 8 * 8);
    }
  };
  static constexpr AttentionTraits traits{.is_gradient_exact = false};

  SeaAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : config_(config),
        width_(shape.head_width),
        encoder_(scope.child("encoder"), 3 * width_, 2 * width_),
        norm_(scope.child("norm"), 2 * width_),
        decoder_(scope.child("decoder"), 2 * width_, config.channels * config.segments),
        gates_(scope.child("gates"), 2 * width_, 2),
        convolutions_{
            Convolution(scope.child("convolution_0"), shape.heads * config.channels,
                        shape.heads * config.channels),
            Convolution(scope.child("convolution_1"), shape.heads * config.channels,
                        shape.heads * config.channels),
            Convolution(scope.child("convolution_2"), shape.heads * config.channels, shape.heads, HasBias::no)},
        redraw_{scope.stream("directions"), static_cast<std::uint32_t>(config.redraw_interval)} {}

  Tensor forward(const AttentionInput& in) override {
    if (in.layout.sequences() == 0) return contiguous(in.value);
    const Tensor summary = gelu(norm_(encoder_(concatenate({context(in), in.value}, 2))));
    const Tensor weights = estimated_weights(summary, in.layout);
    const Tensor exact =
        selected_attention(in.query, in.key, in.value, in.layout,
                           select_segments(weights, in.layout, config_.keys), std::pow(width_, -0.5));
    const Tensor gates = sigmoid(gates_(summary)), strength = slice(gates, 2, 0, 1),
                 share = slice(gates, 2, 1, 1);
    return add(scaled_rows(exact, multiply(strength, share)),
               row_products(affine(share, -1, 1), average(weights, in), in.layout));
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const auto heads = static_cast<double>(shape.heads), width = static_cast<double>(shape.head_width),
               segments = static_cast<double>(config.segments), channels = static_cast<double>(config.channels),
               features = static_cast<double>(config.feature_count(shape.head_width));
    const double predictor = 6 * features * width + 6 * width * width + 2 * width * (channels * segments + 2);
    const double convolutions = 9 * segments * heads * channels * (2 * channels + 1);
    const double keys = std::min(length, static_cast<double>(config.keys));
    return length * heads * (predictor + convolutions + 2 * width * keys + segments);
  }
  /// Features of queries and keys, the pictures that the convolutions read, the weights.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    const double numbers = 2.5 * static_cast<double>(config.feature_count(shape.head_width)) +
                           static_cast<double>((3 * config.channels + 1) * config.segments);
    return length * static_cast<double>(shape.heads) * numbers;
  }

 private:
  /// A softmax over columns does not see a bias.
  enum class HasBias { no, yes };
  /// What is convolved: the picture, or its relu, which is not kept.
  enum class Of { picture, relu };
  /// 3 x 3, over tokens and columns.
  class Convolution {
   public:
    Convolution(const Scope& scope, std::int64_t inputs, std::int64_t outputs,
                HasBias has_bias = HasBias::yes) {
      const Initializer start = uniform(1 / std::sqrt(static_cast<double>(9 * inputs)));
      weight_ = &scope.parameter("weight", {outputs, inputs, 3, 3}, start);
      if (has_bias == HasBias::yes) bias_ = &scope.parameter("bias", {outputs}, start);
    }
    Tensor operator()(const Tensor& x, const SequenceLayout& layout, Of of = Of::picture) const {
      return grid_conv(x, weight_->value, bias_ != nullptr ? bias_->value : Tensor(), layout, of == Of::relu);
    }

   private:
    Parameter *weight_, *bias_ = nullptr;
  };

  /// Attention by random features to the values and, beside them, to where their tokens stand, [tokens, heads,
  /// 2 head width].
  Tensor context(const AttentionInput& in) const {
    const Tensor directions = orthogonal_directions({config_.feature_count(width_), width_}, redraw_,
                                                    in.query.dtype(), in.query.device());
    const double scale = std::pow(width_, -0.25);
    const auto features = [&](const Tensor& x, FeatureSide side) {
      return positive_features(x, directions, in.layout, {side, scale, stabilizer});
    };
    const Tensor places = stretched_unit_rows(in.layout, in.value.size(1), width_, in.value.dtype());
    return feature_attention(features(in.query, FeatureSide::query), features(in.key, FeatureSide::key),
                             concatenate({places, in.value}, 2), in.layout, 0);
  }

  /// The estimated attention of each token to the segments of its sequence, [tokens, heads, segments].
  Tensor estimated_weights(const Tensor& summary, const SequenceLayout& layout) const {
    const std::int64_t tokens = summary.size(0), heads = summary.size(1);
    Tensor picture = reshape(decoder_(summary), {tokens, heads * config_.channels, config_.segments});
    picture = convolutions_[0](picture, layout);
    picture = convolutions_[1](picture, layout, Of::relu);
    return softmax_over_landmarks(convolutions_[2](picture, layout, Of::relu), layout);
  }

  /// The values' average under the mean estimate of all queries, [sequences, heads, 1, head width].
  Tensor average(const Tensor& weights, const AttentionInput& in) const {
    const std::int64_t heads = weights.size(1), count = in.layout.sequences();
    const Tensor values = segment_means(in.value, in.layout, config_.segments);
    const Tensor mean = sequence_mean(reshape(weights, {weights.size(0), heads * config_.segments}), in.layout);
    return matmul(reshape(cast(mean, values.dtype()), {count, heads, 1, config_.segments}), values);
  }

  /// x [tokens, heads, width] times factors [tokens, heads, 1].
  static Tensor scaled_rows(const Tensor& x, const Tensor& factors) {
    const std::int64_t tokens = x.size(0), heads = x.size(1);
    return multiply(x,
                    permute(expand(reshape(factors, {tokens, heads}), {x.size(2), tokens, heads}), {1, 2, 0}));
  }

  static constexpr double stabilizer = 1e-6;  ///< as in the authors' program for FAVOR+
  Config config_;
  std::int64_t width_;
  Linear encoder_;
  LayerNorm norm_;
  Linear decoder_, gates_;
  Convolution convolutions_[3];
  RedrawOptions redraw_;
};

}  // namespace

AttentionKind sea_attention() {
  return attention_kind<SeaAttention>(
      "sea", "exact attention to segments of keys that a small network selects (SEA): linear time and memory");
}

}  // namespace tern
