#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Softmax attention estimated by two parts: exactly inside blocks of queries and keys that were sorted by
/// angular hashes, and by uniformly sampled keys outside them. Source: Han et al. 2023, "HyperAttention", arXiv
/// 2310.05869, sections 2 and 3 (without a causal mask).
class HyperAttention final : public Attention {
 public:
  struct Config {
    std::int64_t block = 256;
    std::int64_t samples = 256;
    std::int64_t bits = 7;
    std::int64_t exact_length = 0;
    void fields(Fields& f) {
      f("block", block, "tokens of a block", between(1, 65536));
      f("samples", samples, "keys sampled for each sequence and head; 0 means none", between(0, 8192));
      f("bits", bits, "bits of a hash code", between(1, 16));
      f("exact_length", exact_length,
        "sequences of at most so many tokens get exact attention; 0 means block + samples", at_least(0));
    }
    std::int64_t longest_exact() const { return exact_length > 0 ? exact_length : block + samples; }
  };
  static constexpr AttentionTraits traits{.stochastic = true};

  HyperAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : bits_(static_cast<int>(config.bits)),
        training_{scope.stream("hash"), scope.stream("samples")},
        evaluation_{scope.stream("hash.evaluation"), scope.stream("samples.evaluation")} {
    options_.scale = 1 / std::sqrt(static_cast<double>(shape.head_width));
    options_.blocks = {static_cast<int>(config.block), config.longest_exact(), BlockReach::own};
    options_.samples = static_cast<int>(config.samples);
  }

  Tensor forward(const AttentionInput& in) override {
    const Streams& streams = in.training ? training_ : evaluation_;
    const auto sorted = [&](const Tensor& x) {
      const Tensor codes = hash_codes(x, in.layout, {HashFamily::gaussian, 1, bits_}, streams.hash);
      return sort_tokens(cast(codes, DType::int32), bits_, in.layout, options_.blocks, true);
    };
    SortedAttentionOptions options = options_;
    options.stream = streams.samples;
    return sorted_attention(in.query, in.key, in.value, in.layout, sorted(in.query), sorted(in.key), options);
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const auto width = static_cast<double>(shape.heads * shape.head_width);
    const double keys = length <= static_cast<double>(config.longest_exact())
                            ? length
                            : static_cast<double>(config.block + config.samples);
    return 2 * length * width * (keys + static_cast<double>(config.bits));
  }
  /// The sorts of queries and keys: four integers for each head.
  static double kept_numbers(const Config&, const AttentionShape& shape, double length) {
    return 4 * length * static_cast<double>(shape.heads);
  }

 private:
  struct Streams {
    RandomStream hash, samples;
  };
  SortedAttentionOptions options_;
  int bits_;
  Streams training_, evaluation_;
};

}  // namespace

AttentionKind hyper_attention() {
  return attention_kind<HyperAttention>(
      "hyper", "softmax attention by sorted hash blocks and sampled keys (HyperAttention): linear time");
}

}  // namespace tern
