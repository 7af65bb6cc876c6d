#include <algorithm>
#include <cmath>

#include "attention/kinds.h"

namespace tern {

constexpr auto enum_names(BernoulliGradient) {
  return std::array{EnumName{BernoulliGradient::surrogate, "surrogate"},
                    EnumName{BernoulliGradient::exact, "exact"}};
}
constexpr auto enum_names(HashFamily) {
  return std::array{EnumName{HashFamily::gaussian, "gaussian"},
                    EnumName{HashFamily::interleaved, "interleaved"},
                    EnumName{HashFamily::hadamard, "hadamard"}};
}

namespace {

/// How the kernel p_ij = (1 - arccos(cos(q_i, k_j)) / pi)^bits is computed.
enum class YosoForm { sampled, expectation };
constexpr auto enum_names(YosoForm) {
  return std::array{EnumName{YosoForm::sampled, "sampled"}, EnumName{YosoForm::expectation, "expectation"}};
}

/// Attention by Bernoulli sampling with locality-sensitive hashing: y = p v in expectation or from `hashes`
/// hash tables, each row scaled to length one, plus an optional convolution of the values (YOSO-C). Source:
/// Zeng et al. 2021, "You Only Sample (Almost) Once", arXiv 2111.09714, sections 3 and 4.
class YosoAttention final : public Attention {
 public:
  struct Config {
    YosoForm form = YosoForm::sampled;
    std::int64_t hashes = 32;
    std::int64_t bits = 0;
    HashFamily hash = HashFamily::gaussian;
    BernoulliGradient gradient = BernoulliGradient::surrogate;
    std::int64_t conv_window = 0;
    YosoForm evaluation = YosoForm::sampled;
    void fields(Fields& f) {
      f("form", form, "hash tables, or the kernel they estimate (YOSO-E, quadratic time)");
      f("hashes", hashes, "hash tables of the sampled form", between(1, 4096));
      f("bits", bits, "bits of a hash code; 0 means ceil(log2 of the padded length), at most 16",
        between(0, 20));
      f("hash", hash,
        "source of the bits: independent, nearly unbiased and fast, or as published (biased low)");
      f("gradient", gradient, "published lower bound, or the derivative of the kernel");
      f("conv_window", conv_window, "window of the convolution added to the output (YOSO-C), odd; 0 means none",
        odd_or_zero() && at_least(0));
      f("evaluation", evaluation,
        "form used outside training where form is sampled; sampled draws fresh hashes");
    }
  };
  static constexpr AttentionTraits traits{.stochastic = true, .is_gradient_exact = false};

  YosoAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : config_(config),
        bits_(code_bits(config, shape)),
        training_stream_(scope.stream("hash")),
        evaluation_stream_(scope.stream("hash.evaluation")) {
    if (config.conv_window > 0)
      convolution_ = &scope.parameter("convolution.weight", {shape.heads, config.conv_window},
                                      uniform(1 / std::sqrt(static_cast<double>(config.conv_window))));
  }

  Tensor forward(const AttentionInput& in) override {
    const bool is_sampled =
        config_.form == YosoForm::sampled && (in.training || config_.evaluation == YosoForm::sampled);
    const Tensor out = is_sampled ? sampled(in) : expected(in);
    return convolution_ ? add(out, depthwise_conv(in.value, convolution_->value, in.layout)) : out;
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const auto width = static_cast<double>(shape.heads * shape.head_width);
    const double convolution = static_cast<double>(config.conv_window) * length * width;
    if (config.form == YosoForm::expectation) return 2 * length * length * width + convolution;
    // hashing of both sides, one addition a key and one a query for each hash
    const auto hashes = static_cast<double>(config.hashes);
    return 2 * length * hashes * width * (code_bits(config, shape) + 1) + convolution;
  }

 private:
  Tensor sampled(const AttentionInput& in) const {
    const HashOptions options{config_.hash, static_cast<int>(config_.hashes), bits_};
    return bernoulli_sample(in.query, in.key, in.value, in.layout, options, config_.gradient,
                            in.training ? training_stream_ : evaluation_stream_, BernoulliRows::unit);
  }
  Tensor expected(const AttentionInput& in) const {
    return bernoulli_expectation(in.query, in.key, in.value, in.layout, bits_, config_.gradient,
                                 BernoulliRows::unit);
  }
  static int code_bits(const Config& config, const AttentionShape& shape) {
    if (config.bits > 0) return static_cast<int>(config.bits);
    return std::clamp(static_cast<int>(std::ceil(std::log2(static_cast<double>(shape.max_length)))), 1, 16);
  }

  Config config_;
  int bits_;
  RandomStream training_stream_, evaluation_stream_;
  Parameter* convolution_ = nullptr;
};

}  // namespace

AttentionKind yoso_attention() {
  return attention_kind<YosoAttention>("yoso",
                                       "Bernoulli-sampled attention by hashing: linear time and memory");
}

}  // namespace tern
