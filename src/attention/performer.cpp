#include <array>
#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Random features: of the exponential kernel, or of relu's.
enum class PerformerKernel { softmax, relu };
constexpr auto enum_names(PerformerKernel) {
  return std::array{EnumName{PerformerKernel::softmax, "softmax"}, EnumName{PerformerKernel::relu, "relu"}};
}

/// Softmax attention whose weights are estimated by positive orthogonal random features (FAVOR+), or attention
/// with relu features. Source: Choromanski et al. 2021, "Rethinking Attention with Performers", arXiv
/// 2009.14794, sections 2.3 and 2.4; the stabilizer is that of the authors' programs.
class PerformerAttention final : public Attention {
 public:
  struct Config {
    std::int64_t features = 256;
    PerformerKernel kernel = PerformerKernel::softmax;
    double stabilizer = 0;
    std::int64_t redraw_interval = 1000;
    bool published = false;
    void fields(Fields& f) {
      f("features", features, "random features", between(1, 65536));
      f("kernel", kernel, "what the features estimate");
      f("stabilizer", stabilizer, "added to every feature; 0 means 1e-6 for softmax and 1e-3 for relu",
        at_least(0));
      f("redraw_interval", redraw_interval, "steps after which the directions are drawn anew; 0 means never",
        between(0, 1'000'000'000));
      f("published", published,
        "the form of published comparisons: softmax features of q.k / width, stabilizer 1e-4, drawn once");
    }
  };
  static constexpr AttentionTraits traits{.is_gradient_exact = false};

  PerformerAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : config_(config),
        scale_(std::pow(static_cast<double>(shape.head_width), config.published ? -0.5 : -0.25)),
        redraw_{scope.stream("directions"),
                config.published ? 0 : static_cast<std::uint32_t>(config.redraw_interval)} {
    if (config.published) config_.kernel = PerformerKernel::softmax;
    if (config.published)
      config_.stabilizer = 1e-4;
    else if (config.stabilizer == 0)
      config_.stabilizer = config.kernel == PerformerKernel::softmax ? 1e-6 : 1e-3;
  }

  Tensor forward(const AttentionInput& in) override {
    const Tensor directions = orthogonal_directions({config_.features, in.query.size(2)}, redraw_,
                                                    in.query.dtype(), in.query.device());
    return feature_attention(features(in.query, directions, in.layout, FeatureSide::query),
                             features(in.key, directions, in.layout, FeatureSide::key), in.value, in.layout, 0);
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    return 4 * length * static_cast<double>(shape.heads * shape.head_width * config.features);
  }
  /// The features of queries and keys, and their gradients' inputs.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    return 2.5 * length * static_cast<double>(shape.heads * config.features);
  }

 private:
  Tensor features(const Tensor& x, const Tensor& directions, const SequenceLayout& layout,
                  FeatureSide side) const {
    if (config_.kernel == PerformerKernel::softmax)
      return positive_features(x, directions, layout, {side, scale_, config_.stabilizer});
    return affine(linear(x, directions, {}, ActivationKind::relu), scale_, config_.stabilizer);
  }

  Config config_;
  double scale_;
  RedrawOptions redraw_;
};

}  // namespace

AttentionKind performer_attention() {
  return attention_kind<PerformerAttention>(
      "performer", "softmax attention by random features (FAVOR+): linear time and memory");
}

}  // namespace tern
