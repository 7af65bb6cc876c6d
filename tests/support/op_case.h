// One case of an op yields all checks on every device: values, gradients, repetition, thread counts, views and
// leaks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/gradient_check.h"
#include "tern/autograd.h"

namespace tern::test {

using Arrays = std::vector<Array>;

/// An op on fixed inputs with its reference, written in double from the formula. Inputs are all differentiable;
/// integer arguments and options are captured by the functions, which bring them to their inputs' device with
/// on() (support/devices.h).
struct OpCase {
  std::string name;
  Arrays inputs;
  Function function;
  std::function<Arrays(const Arrays& inputs)> reference;
  /// Inputs that are parameters: float32 beside bfloat16 data.
  std::vector<std::size_t> parameters{};
  /// Whether bfloat16 is tried on CUDA.
  bool has_bfloat16 = true;
  /// Terms in the longest sum behind one result.
  std::int64_t reduction_length = 1;
  /// Where the gradient is not the derivative of the result: the gradients of the inputs by their own formula.
  std::function<Arrays(const Arrays& inputs, const Arrays& dy)> gradient{};
  /// The results are expected to have no elements, and the gradients to be 0.
  bool is_empty = false;
  /// Multiplies the float32 tolerance; needs a reason, which is printed.
  double widening = 1;
  std::string reason{};
  GradientOptions differences{};
};

/// Function and reference of ops with one result.
template <class F>
Function one_result(F f) {
  return [f](std::span<const Tensor> x) { return std::vector<Tensor>{f(x)}; };
}
template <class F>
std::function<Arrays(const Arrays&)> one_array(F f) {
  return [f](const Arrays& x) { return Arrays{f(x)}; };
}

/// One line for each check that does not hold.
std::vector<std::string> failures(const OpCase& c);

/// Reports the failures of each case to the running test; no case at all is a failure.
void check(const std::vector<OpCase>& cases);

}  // namespace tern::test
