#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Linear Transformer: attention weights phi(q_i) . phi(k_j) with phi = elu + 1, divided by their sum. Source:
/// Katharopoulos et al. 2020, "Transformers are RNNs", arXiv 2006.16236, equations 5 and 7.
class LinearAttention final : public Attention {
 public:
  struct Config {
    double epsilon = 1e-6;
    bool published = false;
    void fields(Fields& f) {
      f("epsilon", epsilon, "added to the denominator", at_least(0));
      f("published", published,
        "the form of published comparisons: no denominator, weights over sqrt(padded length)");
    }
  };
  static constexpr AttentionTraits traits{};

  LinearAttention(const Config& config, const Scope&, const AttentionShape&) : config_(config) {}

  Tensor forward(const AttentionInput& in) override {
    if (!config_.published) return linear_attention(in.query, in.key, in.value, in.layout, config_.epsilon);
    const double scale = 1 / std::sqrt(static_cast<double>(in.layout.padded_length));
    return row_products(elu_plus_one(in.query),
                        affine(outer_sums(elu_plus_one(in.key), in.value, in.layout), scale), in.layout);
  }

  static double multiply_adds(const Config&, const AttentionShape& shape, double length) {
    const auto width = static_cast<double>(shape.head_width);
    return 2 * length * static_cast<double>(shape.heads) * width * width;
  }

 private:
  Config config_;
};

}  // namespace

AttentionKind linear_attention() {
  return attention_kind<LinearAttention>(
      "linear", "Linear Transformer: products of elu features, linear time and memory");
}

}  // namespace tern
