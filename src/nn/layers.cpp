#include "tern/layers.h"

#include <cmath>

namespace tern {

Linear::Linear(const Scope& scope, std::int64_t inputs, std::int64_t outputs, const LinearOptions& options)
    : activation_(options.activation) {
  const Initializer narrow = uniform(1 / std::sqrt(static_cast<double>(inputs)));
  const bool is_given = options.bound > 0;
  weight_ = &scope.parameter("weight", {outputs, inputs}, is_given ? uniform(options.bound) : narrow,
                             Precision::compute);
  if (options.has_bias) bias_ = &scope.parameter("bias", {outputs}, is_given ? constant(0) : narrow);
}

Embedding::Embedding(const Scope& scope, std::int64_t rows, std::int64_t width, double deviation)
    : weight_(&scope.parameter("weight", {rows, width}, normal(deviation))) {}

LayerNorm::LayerNorm(const Scope& scope, std::int64_t width)
    : weight_(&scope.parameter("weight", {width}, constant(1))),
      bias_(&scope.parameter("bias", {width}, constant(0))) {}

}  // namespace tern
