#include <algorithm>
#include <bit>
#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Attention of queries to themselves as keys, inside blocks of tokens that were sorted by hash buckets.
/// Source: Kitaev et al. 2020, "Reformer", arXiv 2001.04451, section 2 and appendix A.
class ReformerAttention final : public Attention {
 public:
  struct Config {
    std::int64_t rounds = 2;
    std::int64_t block = 64;
    std::int64_t buckets = 0;
    bool published = false;
    void fields(Fields& f) {
      f("rounds", rounds, "hash rounds", between(1, 16));
      f("block", block, "tokens of a block, which attend to it and to the block before", between(1, 65536));
      f("buckets", buckets, "hash buckets, even; 0 means 2 ceil(length / block), at most 1024",
        between(0, most_rotation_buckets));
      f("published", published,
        "the form of published programs: all tokens of both blocks, each as often as it is met");
      f.require(buckets % 2 == 0, "buckets", "must be even");
    }
  };
  static constexpr AttentionTraits traits{.stochastic = true};

  ReformerAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : codes_{static_cast<int>(config.rounds), static_cast<int>(config.block),
               static_cast<int>(config.buckets)},
        training_stream_(scope.stream("rotations")),
        evaluation_stream_(scope.stream("rotations.evaluation")) {
    options_.blocks = {codes_.block, 0, config.published ? BlockReach::previous : BlockReach::previous_code};
    options_.scale = config.published ? 1 : 1 / std::sqrt(static_cast<double>(shape.head_width));
    options_.excludes_self = true;
    options_.counts_once = !config.published;
  }

  Tensor forward(const AttentionInput& in) override {
    constexpr int bits = std::bit_width(static_cast<unsigned>(most_rotation_buckets - 1));
    const Tensor codes =
        rotation_codes(in.query, in.layout, codes_, in.training ? training_stream_ : evaluation_stream_);
    const SortedTokens tokens = sort_tokens(codes, bits, in.layout, options_.blocks);
    return sorted_attention(in.query, unit_rows(in.query), in.value, in.layout, tokens, tokens, options_);
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const std::int64_t automatic = 2 * ((shape.max_length + config.block - 1) / config.block);
    const auto buckets = static_cast<double>(
        config.buckets > 0 ? config.buckets : std::min<std::int64_t>(automatic, most_rotation_buckets));
    const auto width = static_cast<double>(shape.heads * shape.head_width);
    return static_cast<double>(config.rounds) * length * width *
           (buckets / 2 + 4 * static_cast<double>(config.block));
  }
  /// The sort: two integers for each head and round.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    return 2 * length * static_cast<double>(shape.heads * config.rounds);
  }

 private:
  RotationCodeOptions codes_;
  SortedAttentionOptions options_;
  RandomStream training_stream_, evaluation_stream_;
};

}  // namespace

AttentionKind reformer_attention() {
  return attention_kind<ReformerAttention>(
      "reformer", "attention inside blocks of tokens sorted by hash buckets, queries being keys: linear time");
}

}  // namespace tern
