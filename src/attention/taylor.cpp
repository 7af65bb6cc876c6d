#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Attention weights 1 + s + s^2 / 2 with s = q'_i . k'_j / sqrt(feature width), divided by their sum; q' and
/// k' are learned projections of each head's rows to few columns. Source: Arora et al. 2024, "Simple linear
/// attention language models balance the recall-throughput tradeoff" (Based), arXiv 2402.18668,
/// without its causal mask and its short convolutions.
class TaylorAttention final : public Attention {
 public:
  struct Config {
    std::int64_t feature_width = 16;
    void fields(Fields& f) {
      f("feature_width", feature_width, "columns that queries and keys are projected to", between(1, 64));
    }
  };
  static constexpr AttentionTraits traits{};

  TaylorAttention(const Config& config, const Scope& scope, const AttentionShape& shape) {
    const auto projection = [&](const char* name) {
      return &scope.parameter(name, {shape.heads, shape.head_width, config.feature_width},
                              uniform(1 / std::sqrt(static_cast<double>(shape.head_width))));
    };
    query_ = projection("query.weight");
    key_ = projection("key.weight");
  }

  Tensor forward(const AttentionInput& in) override {
    return feature_attention(features(in.query, *query_, in.layout), features(in.key, *key_, in.layout),
                             in.value, in.layout, 0);
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const auto features =
        static_cast<double>(taylor_feature_count(config.feature_width) + config.feature_width);
    return 2 * length * static_cast<double>(shape.heads * shape.head_width) * features;
  }
  /// The features of queries or keys and the rows that they are made of.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    return 1.5 * length * static_cast<double>(shape.heads * taylor_feature_count(config.feature_width));
  }

 private:
  /// Every sequence uses the heads' projections.
  static Tensor features(const Tensor& x, const Parameter& projection, const SequenceLayout& layout) {
    const Shape& shape = projection.value.shape();
    const Tensor matrices = expand(projection.value, {layout.sequences(), shape[0], shape[1], shape[2]});
    return taylor_features(row_products(x, matrices, layout));
  }

  Parameter *query_, *key_;
};

}  // namespace

AttentionKind taylor_attention() {
  return attention_kind<TaylorAttention>(
      "taylor", "the exponential's second-order series (Based): linear time and memory");
}

}  // namespace tern
