#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Softmax attention by way of landmarks, the means of segments: softmax(q k~^T) softmax(q~ k~^T)^+ softmax(q~
/// k^T) v, plus a convolution of the values. Source: Xiong et al. 2021, "Nystromformer", arXiv 2102.03902,
/// equations 13 and 14.
class NystromAttention final : public Attention {
 public:
  struct Config {
    std::int64_t landmarks = 64;
    std::int64_t iterations = 6;
    std::int64_t conv_window = 33;
    bool published = false;
    void fields(Fields& f) {
      f("landmarks", landmarks, "landmarks of a sequence; one of no more tokens gets exact attention",
        between(1, 1024));
      f("iterations", iterations, "steps of the iteration for the pseudo-inverse", between(1, 100));
      f("conv_window", conv_window, "window of the convolution added to the output, odd; 0 means none",
        odd_or_zero() && at_least(0));
      f("published", published,
        "the authors' start of the iteration, which makes the sequences of a batch depend on each other");
    }
  };
  static constexpr AttentionTraits traits{};

  NystromAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : config_(config), scale_(1 / std::sqrt(static_cast<double>(shape.head_width))) {
    if (config.conv_window > 0)
      convolution_ = &scope.parameter("convolution.weight", {shape.heads, config.conv_window},
                                      uniform(1 / std::sqrt(static_cast<double>(config.conv_window))));
  }

  Tensor forward(const AttentionInput& in) override {
    if (in.layout.sequences() == 0) return contiguous(in.value);
    const Tensor queries = affine(segment_means(in.query, in.layout, config_.landmarks), scale_),
                 keys = segment_means(in.key, in.layout, config_.landmarks);
    const Tensor inverse =
        inverse_of(softmax_between_landmarks(matmul(queries, keys, {false, true}), in.layout));
    const Tensor of_tokens = softmax_over_tokens(row_products(in.key, queries, in.layout, {true}), in.layout);
    const Tensor values = matmul(inverse, outer_sums(of_tokens, in.value, in.layout));
    const Tensor out = projected_attention(in.query, affine(keys, scale_), values, in.layout, true);
    return convolution_ ? add(out, depthwise_conv(in.value, convolution_->value, in.layout)) : out;
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const auto heads = static_cast<double>(shape.heads), width = static_cast<double>(shape.head_width),
               count = static_cast<double>(config.landmarks);
    const double inverse = 4 * static_cast<double>(config.iterations) * count * count * count;
    const double tokens = length * width * (4 * count + static_cast<double>(config.conv_window));
    return heads * (tokens + inverse + 2 * count * count * width);
  }
  /// The weights of tokens for landmarks and of landmarks for tokens; the matrices between landmarks, one for
  /// each step of the inverse and six around them.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    const auto heads = static_cast<double>(shape.heads), count = static_cast<double>(config.landmarks);
    return heads * count * (2 * length + static_cast<double>(config.iterations + 6) * count);
  }

 private:
  /// The iteration begins with M^T over the largest column sum; the rows of M [sequences, heads, landmarks,
  /// landmarks] sum to one.
  Tensor inverse_of(const Tensor& m) const {
    const Tensor sums = sum(m, 2);
    Tensor start;
    if (config_.published) {
      const Tensor largest = max(reshape(sums, {sums.size(0) * sums.size(1) * sums.size(2)}), 0);
      start = multiply(transpose(m, 2, 3), reciprocal(largest));
    } else {
      // the matrices' axes first: a factor of its own for each matrix
      const Tensor scaled = multiply(permute(m, {3, 2, 0, 1}), reciprocal(max(sums, 2)));
      start = permute(scaled, {2, 3, 0, 1});
    }
    return iterated_inverse(m, start, static_cast<int>(config_.iterations));
  }

  Config config_;
  double scale_;
  Parameter* convolution_ = nullptr;
};

}  // namespace

AttentionKind nystrom_attention() {
  return attention_kind<NystromAttention>(
      "nystrom", "Nystromformer: softmax attention by way of landmarks, linear time and memory");
}

}  // namespace tern
