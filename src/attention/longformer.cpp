#include <algorithm>
#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Softmax attention of each token to the `window` / 2 positions on either side, and to and from the first
/// `global_tokens` tokens of its sequence. Source: Beltagy et al. 2020, "Longformer", arXiv 2004.05150, section
/// 3.1; global tokens have no projections of their own.
class LongformerAttention final : public Attention {
 public:
  struct Config {
    std::int64_t window = 512, global_tokens = 1;
    void fields(Fields& f) {
      f("window", window, "neighbouring positions that a token sees, half of them on each side",
        between(0, 1 << 30));
      f("global_tokens", global_tokens, "first tokens of a sequence, which see all and are seen by all",
        between(0, 1 << 30));
      f.require(window % 2 == 0, "window", "must be even: half of it lies on each side");
    }
  };
  static constexpr AttentionTraits traits{};

  LongformerAttention(const Config& config, const Scope&, const AttentionShape& shape)
      : pattern_{.window = static_cast<int>(config.window / 2),
                 .global = static_cast<int>(config.global_tokens)},
        scale_(1 / std::sqrt(static_cast<double>(shape.head_width))) {}

  Tensor forward(const AttentionInput& in) override {
    return sparse_attention(in.query, in.key, in.value, in.layout, pattern_, scale_).y;
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const double keys = static_cast<double>(config.window + 1 + 2 * config.global_tokens);
    return 2 * length * std::min(length, keys) * static_cast<double>(shape.heads * shape.head_width);
  }

 private:
  AttentionPattern pattern_;
  double scale_;
};

}  // namespace

AttentionKind longformer_attention() {
  return attention_kind<LongformerAttention>(
      "longformer", "exact attention in a sliding window, with global tokens: linear time and memory");
}

}  // namespace tern
