#include "support/gradient_check.h"

#include "support/tolerance.h"

namespace tern::test {
namespace {

double weighted_sum(const Function& f, std::span<const Tensor> inputs, std::span<const Tensor> weights) {
  const NoGradientScope scope;
  const std::vector<Tensor> outputs = f(inputs);
  double total = 0;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const std::vector<double> y = outputs[i].to_vector<double>(), w = weights[i].to_vector<double>();
    for (std::size_t j = 0; j < y.size(); ++j) total += y[j] * w[j];
  }
  return total;
}

/// Derivative of the weighted sum along `direction` of input `which`: Richardson's combination of the central
/// differences of half widths step and 2 step.
double slope(const Function& f, std::span<const Tensor> inputs, std::span<const Tensor> weights,
             std::size_t which, const std::vector<double>& direction, double step) {
  const Array center = array_of(inputs[which]);
  std::vector<Tensor> moved(inputs.begin(), inputs.end());
  const auto at = [&](double distance) {
    Array x = center;
    for (std::size_t i = 0; i < direction.size(); ++i) x.values[i] += distance * direction[i];
    moved[which] = tensor_of(x, DType::float64);
    return weighted_sum(f, moved, weights);
  };
  return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
}

/// Directions to try: unit vectors of a small input, random ones with entries up to 1 of a large one.
std::vector<std::vector<double>> directions_for(std::int64_t count, const GradientOptions& options) {
  std::vector<std::vector<double>> out;
  if (count <= options.largest_full) {
    for (std::int64_t i = 0; i < count; ++i) {
      out.emplace_back(static_cast<std::size_t>(count), 0.0);
      out.back()[static_cast<std::size_t>(i)] = 1;
    }
    return out;
  }
  for (int i = 0; i < options.directions; ++i)
    out.push_back(uniform_array({count}, 9000 + static_cast<std::uint64_t>(i)).values);
  return out;
}

std::string input_failure(const Function& f, std::span<const Tensor> inputs, std::span<const Tensor> weights,
                          std::size_t which, const Tensor& gradient, const GradientOptions& options) {
  const std::vector<double> g = gradient.to_vector<double>();
  if (g.empty()) return "the input is empty";
  std::vector<double> actual, expected;
  for (const auto& direction : directions_for(gradient.count(), options)) {
    double along = 0;
    for (std::size_t i = 0; i < g.size(); ++i) along += g[i] * direction[i];
    actual.push_back(along);
    expected.push_back(slope(f, inputs, weights, which, direction, options.step));
  }
  return difference(actual, expected, options.relative);
}

}  // namespace

std::vector<Tensor> tape_gradients(const Function& f, std::span<const Tensor> inputs,
                                   std::span<const Tensor> weights) {
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) leaves.push_back(leaf(input));
  const std::vector<Tensor> outputs = f(leaves);
  backward(outputs, weights);
  std::vector<Tensor> gradients;
  for (const Tensor& x : leaves) gradients.push_back(gradient_of(x));
  return gradients;
}

std::vector<Tensor> random_weights(std::span<const Tensor> outputs, std::uint64_t seed) {
  std::vector<Tensor> weights;
  for (const Tensor& output : outputs)
    weights.push_back(tensor_of(uniform_array(output.shape(), seed + weights.size(), 0.2, 1.2), output.dtype(),
                                output.device()));
  return weights;
}

std::vector<std::string> gradient_failures(const Function& f, std::span<const Tensor> inputs,
                                           const GradientOptions& options) {
  std::vector<Tensor> outputs;
  {
    const NoGradientScope scope;
    outputs = f(inputs);
  }
  const std::vector<Tensor> weights = random_weights(outputs, 500);
  const std::vector<Tensor> gradients = tape_gradients(f, inputs, weights);
  std::vector<std::string> failures;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (const std::string text = input_failure(f, inputs, weights, i, gradients[i], options); !text.empty())
      failures.push_back(format_text("gradient of input {} against differences: {}", i, text));
  return failures;
}

}  // namespace tern::test
