#include "attention/kinds.h"

namespace tern {
namespace {

/// out = v: what the rest of the encoder reaches without looking at other tokens.
class NoAttention final : public Attention {
 public:
  struct Config {
    void fields(Fields&) {}
  };
  static constexpr AttentionTraits traits{};
  NoAttention(const Config&, const Scope&, const AttentionShape&) {}
  Tensor forward(const AttentionInput& in) override { return contiguous(in.value); }
  static double multiply_adds(const Config&, const AttentionShape&, double) { return 0; }
};

}  // namespace

AttentionKind no_attention() {
  return attention_kind<NoAttention>("none", "the value rows themselves: an ablation");
}

}  // namespace tern
