#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// norm(silu(q) (silu(k)^T v)): linear attention whose output is normalized instead of its weights, by the root
/// mean square of all heads together. Source: Qin et al. 2023, "TransNormerLLM", arXiv 2307.14995, and Qin et
/// al. 2024, "Lightning Attention-2", arXiv 2401.04658, without the causal mask and the decay that goes with
/// it.
class LightningAttention final : public Attention {
 public:
  struct Config {
    bool published = false;
    void fields(Fields& f) {
      f("published", published, "the form of the authors' programs: silu of the values as well");
    }
  };
  static constexpr AttentionTraits traits{};

  LightningAttention(const Config& config, const Scope&, const AttentionShape&)
      : is_value_activated_(config.published) {}

  Tensor forward(const AttentionInput& in) override {
    const Tensor value = is_value_activated_ ? silu(in.value) : in.value;
    const Tensor mixed = row_products(silu(in.query), outer_sums(silu(in.key), value, in.layout), in.layout);
    const std::int64_t columns = mixed.size(1) * mixed.size(2);
    const Tensor rows = unit_rows(reshape(mixed, {mixed.size(0), columns}));
    return reshape(affine(rows, std::sqrt(static_cast<double>(columns))), mixed.shape());
  }

  static double multiply_adds(const Config&, const AttentionShape& shape, double length) {
    const auto width = static_cast<double>(shape.head_width);
    return 2 * length * static_cast<double>(shape.heads) * width * width;
  }

 private:
  static Tensor silu(const Tensor& x) { return multiply(x, sigmoid(x)); }

  bool is_value_activated_;
};

}  // namespace

AttentionKind lightning_attention() {
  return attention_kind<LightningAttention>(
      "lightning", "linear attention with a normalized output (TransNormer): linear time and memory");
}

}  // namespace tern
