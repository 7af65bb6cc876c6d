// A mechanism built on its own, for the contract that every registered kind keeps.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "support/array.h"
#include "support/devices.h"
#include "support/gradient_check.h"
#include "tern/attention.h"
#include "tern/ops.h"

namespace tern::test {

/// A kind with settings such as "bits=6".
struct Variant {
  std::string kind;
  std::vector<std::string> settings;
  std::string label() const {
    std::string text = kind;
    for (const std::string& setting : settings) text += "_" + setting;
    for (char& c : text) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
    return text;
  }
  friend std::ostream& operator<<(std::ostream& out, const Variant& variant) { return out << variant.label(); }
};

/// The mechanism of a variant with parameters and streams of its own.
class Mechanism {
 public:
  Mechanism(const Variant& variant, const AttentionShape& shape, DType dtype = DType::float64,
            Device device = {})
      : store_(17, on(empty({}, dtype, device), RandomStream{{}, &step}).step, dtype, device) {
    struct Holder {
      Choice attention{attention_choices()};
      void fields(Fields& f) { f("attention", attention, "the mechanism"); }
    } holder;
    std::vector<std::string> overrides;
    for (const std::string& setting : variant.settings) overrides.push_back("attention." + setting);
    config::load_text(holder, "attention: {kind: " + variant.kind + "}", "variant.yaml", overrides);
    kind_ = &find_attention_kind(variant.kind);
    attention_ = kind_->build(holder.attention, Scope(store_).child("attention"), shape);
  }
  const AttentionTraits& traits() const { return kind_->traits; }
  /// The parameter attention.<name>, which must be there.
  const Parameter& parameter(const std::string& name) const {
    for (const Parameter& known : store_.parameters())
      if (known.path == "attention." + name) return known;
    throw_error(ExitCode::internal, "Mechanism: there is no parameter {}", name);
  }
  Tensor operator()(std::span<const Tensor> qkv, const SequenceLayout& layout, bool training = true) const {
    return attention_->forward({qkv[0], qkv[1], qkv[2], layout, training});
  }
  /// The mechanism as a function of q, k, v.
  Function function(const SequenceLayout& layout, bool training = true) const {
    return [this, layout, training](std::span<const Tensor> x) {
      // a mechanism may return its input, and a leaf is no root
      const std::vector<Tensor> rows{affine(x[0], 1), affine(x[1], 1), affine(x[2], 1)};
      return std::vector{(*this)(rows, layout, training)};
    };
  }

  std::uint32_t step = 1;

 private:
  ParameterStore store_;
  const AttentionKind* kind_;
  std::unique_ptr<Attention> attention_;
};

/// Random q, k, v for the tokens of `layout`.
inline std::vector<Tensor> random_rows(const SequenceLayout& layout, const AttentionShape& shape,
                                       DType dtype = DType::float64, Device device = {}) {
  std::vector<Tensor> out;
  for (std::uint64_t part = 0; part < 3; ++part)
    out.push_back(
        tensor_of(normal_array({layout.tokens(), shape.heads, shape.head_width}, 170 + part), dtype, device));
  return out;
}

/// Values, then the gradients of q, k and v.
inline std::vector<Array> values_and_gradients(const Mechanism& mechanism, const std::vector<Tensor>& qkv,
                                               const SequenceLayout& layout) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : qkv) leaves.push_back(leaf(x));
  const std::vector<Tensor> y = mechanism.function(layout)(leaves);
  backward(y, random_weights(y, 180));
  std::vector<Array> out{array_of(y[0])};
  for (const Tensor& x : leaves) out.push_back(array_of(gradient_of(x)));
  return out;
}

}  // namespace tern::test
