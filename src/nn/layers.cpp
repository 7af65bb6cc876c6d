#include "tern/layers.h"

#include <cmath>

namespace tern {

Linear::Linear(const Scope& scope, std::int64_t inputs, std::int64_t outputs, ActivationKind activation)
    : activation_(activation) {
  const Initializer law = uniform(1 / std::sqrt(static_cast<double>(inputs)));
  weight_ = &scope.parameter("weight", {outputs, inputs}, law, Precision::compute);
  bias_ = &scope.parameter("bias", {outputs}, law);
}

Embedding::Embedding(const Scope& scope, std::int64_t rows, std::int64_t width)
    : weight_(&scope.parameter("weight", {rows, width}, normal(0.02))) {}

LayerNorm::LayerNorm(const Scope& scope, std::int64_t width)
    : weight_(&scope.parameter("weight", {width}, constant(1))),
      bias_(&scope.parameter("bias", {width}, constant(0))) {}

}  // namespace tern
