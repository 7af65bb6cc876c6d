#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// softmax(q k^T / sqrt(head width)) v (Vaswani et al. 2017, equation 1), in tiles with linear memory.
class SoftmaxAttention final : public Attention {
 public:
  struct Config {
    double dropout = 0.1;
    void fields(Fields& f) {
      f("dropout", dropout, "dropout rate of the attention weights", at_least(0) && below(1));
    }
  };
  static constexpr AttentionTraits traits{.exact = true, .time = Growth::quadratic};
  SoftmaxAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : scale_(1 / std::sqrt(static_cast<double>(shape.head_width))),
        dropout_{config.dropout, scope.stream("weight_dropout")} {}
  Tensor forward(const AttentionInput& in) override {
    const DropoutOptions dropout{in.training ? dropout_.rate : 0.0, dropout_.stream};
    return softmax_attention(in.query, in.key, in.value, in.layout, scale_, dropout);
  }
  static double multiply_adds(const Config&, const AttentionShape& shape, double length) {
    return 2 * length * length * static_cast<double>(shape.heads * shape.head_width);
  }

 private:
  double scale_;
  DropoutOptions dropout_;
};

}  // namespace

AttentionKind softmax_attention_kind() {
  return attention_kind<SoftmaxAttention>("softmax", "exact attention, tiled: linear memory, quadratic time");
}

}  // namespace tern
