// The basic layers, with the initial values that the published models use.
#pragma once

#include "tern/module.h"
#include "tern/ops.h"

namespace tern {

struct LinearOptions {
  ActivationKind activation = ActivationKind::none;
  /// The weight starts as U(-bound, bound) and the bias as 0; where this is 0, both as U(-1, 1) / sqrt(inputs).
  double bound = 0;
  bool has_bias = true;
};

/// activation(x weight^T + bias); weight [outputs, inputs].
class Linear {
 public:
  Linear(const Scope& scope, std::int64_t inputs, std::int64_t outputs, const LinearOptions& options);
  Linear(const Scope& scope, std::int64_t inputs, std::int64_t outputs,
         ActivationKind activation = ActivationKind::none)
      : Linear(scope, inputs, outputs, LinearOptions{.activation = activation}) {}
  /// x [..., inputs] -> [..., outputs].
  Tensor operator()(const Tensor& x) const { return linear(x, weight(), bias(), activation_); }
  const Tensor& weight() const { return weight_->value; }
  /// Undefined without one.
  Tensor bias() const { return bias_ != nullptr ? bias_->value : Tensor(); }

 private:
  Parameter *weight_, *bias_ = nullptr;
  ActivationKind activation_;
};

/// Rows of a table [rows, width] that starts as N(0, deviation^2).
class Embedding {
 public:
  Embedding(const Scope& scope, std::int64_t rows, std::int64_t width, double deviation = 0.02);
  const Tensor& table() const { return weight_->value; }

 private:
  Parameter* weight_;
};

/// Layer norm over the last axis; weight starts as 1, bias as 0; epsilon 1e-5.
class LayerNorm {
 public:
  LayerNorm(const Scope& scope, std::int64_t width);
  Tensor operator()(const Tensor& x) const { return layer_norm(x, weight_->value, bias_->value); }
  /// total = x + dropout(branch) and its norm, in one pass.
  ResidualNorm operator()(const Tensor& x, const Tensor& branch, const RowCoordinates& rows,
                          const DropoutOptions& options) const {
    return residual_dropout_norm(x, branch, rows, options, weight_->value, bias_->value);
  }
  std::vector<Tensor> leaves() const { return {weight_->value, bias_->value}; }

 private:
  Parameter *weight_, *bias_;
};

/// A site of dropout: active in training only.
class Dropout {
 public:
  Dropout(const Scope& scope, double rate) : options_{rate, scope.stream("dropout")} {}
  DropoutOptions options(bool training) const { return {training ? options_.rate : 0.0, options_.stream}; }
  Tensor operator()(const Tensor& x, const RowCoordinates& rows, bool training) const {
    return dropout(x, rows, options(training));
  }

 private:
  DropoutOptions options_;
};

}  // namespace tern
