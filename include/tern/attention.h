// The attention plug-in: what a mechanism sees, what it declares about itself, and the layer around it.
#pragma once

#include <functional>
#include <memory>

#include "tern/config.h"
#include "tern/layers.h"
#include "tern/module.h"
#include "tern/sequence_layout.h"

namespace tern {

struct AttentionShape {
  std::int64_t heads, head_width;
  std::int64_t max_length;  ///< the task's padded length
};

/// query, key, value: [tokens, heads, head_width], strided views of one product.
struct AttentionInput {
  Tensor query, key, value;
  const SequenceLayout& layout;
  bool training;
};

/// A mechanism: per-head rows in, per-head rows out.
class Attention {
 public:
  virtual ~Attention() = default;
  /// -> [tokens, heads, head_width], contiguous.
  virtual Tensor forward(const AttentionInput& in) = 0;
};

enum class Growth { linear, quadratic };

/// What the layer, the commands and the contract tests may assume of a mechanism; nobody asks for its name.
struct AttentionTraits {
  bool exact = false;             ///< equals softmax attention
  bool stochastic = false;        ///< draws random numbers in every forward pass
  bool batch_independent = true;  ///< a sequence's result does not depend on its batch
  bool padding_free = true;       ///< the padded length does not enter its definition
  bool is_gradient_exact = true;  ///< its gradient is the derivative of its forward pass
  Growth time = Growth::linear;   ///< work by length; memory is linear for all
};

struct AttentionKind {
  std::string_view name, summary;
  AttentionTraits traits;
  ChoiceKind config;  ///< its record, with the defaults
  std::function<std::unique_ptr<Attention>(const Choice& config, const Scope& scope,
                                           const AttentionShape& shape)>
      build;
  /// Multiply-adds of one forward pass over one sequence of `length` tokens in one layer, all heads.
  std::function<double(const Choice& config, const AttentionShape& shape, double length)> multiply_adds;
  /// Numbers that a layer keeps for the backward pass of such a sequence, beyond a few rows of the model's
  /// width for each token.
  std::function<double(const Choice& config, const AttentionShape& shape, double length)> kept_numbers;
};

/// The kind whose class is A: A::Config lists its fields; A(config, scope, shape) builds it; A::traits declares
/// it; A::multiply_adds(config, shape, length) counts its work, and A::kept_numbers(config, shape, length),
/// where there is one, its memory.
template <class A>
AttentionKind attention_kind(std::string_view name, std::string_view summary) {
  return {
      name,
      summary,
      A::traits,
      choice_kind<typename A::Config>(name, summary),
      [](const Choice& config, const Scope& scope, const AttentionShape& shape) -> std::unique_ptr<Attention> {
        return std::make_unique<A>(config.as<typename A::Config>(), scope, shape);
      },
      [](const Choice& config, const AttentionShape& shape, double length) {
        return A::multiply_adds(config.as<typename A::Config>(), shape, length);
      },
      [](const Choice& config, const AttentionShape& shape, double length) -> double {
        if constexpr (requires { A::kept_numbers(config.as<typename A::Config>(), shape, length); })
          return A::kept_numbers(config.as<typename A::Config>(), shape, length);
        return 0;
      }};
}

/// Every mechanism that a configuration can name. Defined in src/attention/registry.cpp.
const std::vector<AttentionKind>& attention_kinds();
/// The configuration kinds of attention_kinds(), in the same order.
std::span<const ChoiceKind> attention_choices();
/// The kind named `name`; throws Error(bad_config) if there is none.
const AttentionKind& find_attention_kind(std::string_view name);

/// How the layer around a mechanism is built.
struct AttentionLayerOptions {
  Tensor sinusoids{};    ///< where given, queries and keys are turned by their position: see rotary()
  double bound = 0;      ///< of the projections' initial values: see LinearOptions
  bool has_bias = true;  ///< whether the projections have one
};

/// Projections, head split, mechanism, merge: x [tokens, width] -> [tokens, width].
class MultiHeadAttention {
 public:
  using Build = std::function<std::unique_ptr<Attention>(const Scope& scope, const AttentionShape& shape)>;
  /// `shape.heads * shape.head_width` is the inner width, `width` that of x.
  MultiHeadAttention(const Scope& scope, std::int64_t width, const AttentionShape& shape, const Build& build,
                     const AttentionLayerOptions& options = {});
  Tensor operator()(const Tensor& x, const SequenceLayout& layout, bool training);

 private:
  AttentionShape shape_;
  Linear query_key_value_, output_;
  std::unique_ptr<Attention> mechanism_;
  Tensor sinusoids_;
  std::string path_;
};

}  // namespace tern
