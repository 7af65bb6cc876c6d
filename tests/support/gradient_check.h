// Gradients of the tape against central differences in float64.
#pragma once

#include <string>
#include <vector>

#include "support/array.h"
#include "tern/autograd.h"

namespace tern::test {

struct GradientOptions {
  /// Half width of the inner of two central differences; the error of their combination is of order step^4.
  double step = 1e-3;
  /// Inputs of more elements are tried in random directions instead of element by element.
  std::int64_t largest_full = 48;
  int directions = 6;
  /// Allowed error relative to the largest derivative.
  double relative = 1e-7;
};

/// d(sum over outputs of weights * f(inputs)) / d(inputs), from the tape. `weights` has the outputs' shapes.
std::vector<Tensor> tape_gradients(const Function& f, std::span<const Tensor> inputs,
                                   std::span<const Tensor> weights);
/// Random weights with the shapes and type of `outputs`.
std::vector<Tensor> random_weights(std::span<const Tensor> outputs, std::uint64_t seed);

/// One line for each float64 input whose gradient from the tape differs from differences of f.
std::vector<std::string> gradient_failures(const Function& f, std::span<const Tensor> inputs,
                                           const GradientOptions& options = {});

}  // namespace tern::test
