#include "support/op_case.h"

#include <cstring>
#include <iostream>

#include "support/devices.h"
#include "support/tolerance.h"
#include "tern/memory.h"

namespace tern::test {
namespace {

/// Values, then gradients, of one run.
struct Run {
  std::vector<Tensor> outputs, gradients;
};

class Checks {
 public:
  Checks(const OpCase& c, DType dtype, Device device) : case_(c), dtype_(dtype), device_(device) {
    for (std::size_t i = 0; i < c.inputs.size(); ++i) {
      const bool is_parameter = std::find(c.parameters.begin(), c.parameters.end(), i) != c.parameters.end();
      inputs_.push_back(tensor_of(c.inputs[i], is_parameter ? accumulate_type(dtype) : dtype, device));
    }
  }
  /// All checks of one number type; `failures` gets a line for each that does not hold.
  void run(std::vector<std::string>& failures);

 private:
  Run run_once(std::span<const Tensor> inputs) const;
  void check_values(const Run& run);
  void check_gradients(const Run& run);
  void check_repetition(const Run& run);
  void check_views(const Run& run);
  void check_single_inputs(const Run& run);
  void check_double_use(const Run& run);

  double allowed() const {
    const double relative = tolerance(dtype_, case_.reduction_length);
    return dtype_ == DType::float64 ? relative : relative * case_.widening;
  }
  void fail(const std::string& what) {
    lines_.push_back(format_text("{} in {} on {}: {}", case_.name, dtype_, device_, what));
  }
  void compare(const std::string& what, const Tensor& actual, const Array& expected, double relative);
  void compare_bits(const std::string& what, const Run& actual, const Run& expected);

  const OpCase& case_;
  DType dtype_;
  Device device_;
  std::vector<Tensor> inputs_;
  std::vector<std::string> lines_;
};

Run Checks::run_once(std::span<const Tensor> inputs) const {
  Run run;
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) leaves.push_back(leaf(input));
  const std::vector<Tensor> outputs = case_.function(leaves);
  backward(outputs, random_weights(outputs, 700));
  for (const Tensor& output : outputs) run.outputs.push_back(output.detach());
  for (const Tensor& x : leaves) run.gradients.push_back(gradient_of(x));
  return run;
}

void Checks::compare(const std::string& what, const Tensor& actual, const Array& expected, double relative) {
  if (actual.shape() != expected.shape)
    return fail(format_text("{} has shape {}, expected {}", what, actual.shape(), expected.shape));
  if (actual.dtype() != dtype_ && actual.dtype() != accumulate_type(dtype_))
    return fail(format_text("{} is {}", what, actual.dtype()));
  if (case_.is_empty && expected.values.empty()) return;
  if (const std::string text = difference(actual.to_vector<double>(), expected.values, relative); !text.empty())
    fail(what + " " + text);
}

void Checks::compare_bits(const std::string& what, const Run& actual, const Run& expected) {
  const auto differ = [](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    bool found = a.size() != b.size();
    for (std::size_t i = 0; !found && i < a.size(); ++i) {
      const std::vector<double> x = a[i].to_vector<double>(), y = b[i].to_vector<double>();
      found = x.size() != y.size() ||
              (!x.empty() && std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) != 0);
    }
    return found;
  };
  if (differ(actual.outputs, expected.outputs)) fail("values differ in bits " + what);
  if (differ(actual.gradients, expected.gradients)) fail("gradients differ in bits " + what);
}

void Checks::check_values(const Run& run) {
  Arrays rounded;
  for (const Tensor& input : inputs_) rounded.push_back(array_of(input));
  const Arrays expected = case_.reference(rounded);
  if (expected.size() != run.outputs.size())
    return fail(format_text("gives {} results, expected {}", run.outputs.size(), expected.size()));
  for (std::size_t i = 0; i < expected.size(); ++i)
    compare(format_text("result {}", i), run.outputs[i], expected[i], allowed());
}

void Checks::check_gradients(const Run& run) {
  for (std::size_t i = 0; i < run.gradients.size(); ++i)
    if (case_.is_empty && inputs_[i].count() > 0)
      compare(format_text("gradient of input {}", i), run.gradients[i], Array(inputs_[i].shape()), 0);
  if (case_.is_empty) return;
  std::vector<Tensor> exact_inputs, exact_weights;
  Arrays inputs, dy;
  for (const Tensor& input : inputs_) inputs.push_back(array_of(input));
  for (const Tensor& w : random_weights(run.outputs, 700)) dy.push_back(array_of(w));
  Arrays expected;
  if (case_.gradient) {
    expected = case_.gradient(inputs, dy);
  } else if (dtype_ == DType::float64 && device_.type == DeviceType::cpu) {
    for (const std::string& text : gradient_failures(case_.function, inputs_, case_.differences)) fail(text);
    return;
  } else {
    for (const Array& x : inputs) exact_inputs.push_back(tensor_of(x, DType::float64));
    for (const Array& w : dy) exact_weights.push_back(tensor_of(w, DType::float64));
    for (const Tensor& g : tape_gradients(case_.function, exact_inputs, exact_weights))
      expected.push_back(array_of(g));
  }
  for (std::size_t i = 0; i < run.gradients.size(); ++i)
    compare(format_text("gradient of input {}", i), run.gradients[i], expected.at(i), 4 * allowed());
}

void Checks::check_repetition(const Run& run) {
  compare_bits("on a second run", run_once(inputs_), run);
  if (device_.type != DeviceType::cpu) return;
  const int before = threads();
  for (const int count : {1, 2, 3}) {
    set_threads(count);
    compare_bits(format_text("with {} threads", count), run_once(inputs_), run);
  }
  set_threads(before);
}

/// The same elements inside a larger storage, axes stored in reverse order, every second one used.
Tensor scattered(const Tensor& x) {
  Shape stored;
  std::vector<std::int64_t> extents(x.shape().begin(), x.shape().end());
  extents.push_back(2);
  std::reverse(extents.begin(), extents.end());
  stored = Shape(extents);
  const Tensor storage = full(stored, 0.5, x.dtype(), x.device());
  std::vector<int> axes;
  for (int axis = stored.rank() - 1; axis >= 0; --axis) axes.push_back(axis);
  const Tensor turned = storage.permuted(axes);
  Shape strides;
  {
    std::vector<std::int64_t> kept(turned.strides().begin(), turned.strides().end() - 1);
    strides = Shape(kept);
  }
  const Tensor view = storage.viewed(x.shape(), strides, storage.count() > 0 ? storage.count() / 2 : 0);
  copy(x, view);
  return view;
}

void Checks::check_views(const Run& run) {
  std::vector<Tensor> views;
  for (const Tensor& input : inputs_)
    views.push_back(input.rank() < Shape::max_rank ? scattered(input) : input);
  const Run strided = run_once(views);
  for (std::size_t i = 0; i < run.outputs.size(); ++i)
    compare(format_text("result {} of strided inputs", i), strided.outputs[i], array_of(run.outputs[i]),
            allowed());
  for (std::size_t i = 0; i < run.gradients.size(); ++i)
    compare(format_text("gradient {} of strided inputs", i), strided.gradients[i], array_of(run.gradients[i]),
            4 * allowed());
}

void Checks::check_single_inputs(const Run& run) {
  for (std::size_t i = 0; inputs_.size() > 1 && i < inputs_.size(); ++i) {
    std::vector<Tensor> mixed(inputs_.begin(), inputs_.end());
    mixed[i] = leaf(inputs_[i]);
    const std::vector<Tensor> outputs = case_.function(mixed);
    std::vector<Tensor> roots, seeds;
    const std::vector<Tensor> weights = random_weights(outputs, 700);
    for (std::size_t j = 0; j < outputs.size(); ++j)
      if (outputs[j].requires_gradient()) roots.push_back(outputs[j]), seeds.push_back(weights[j]);
    backward(roots, seeds);
    compare(format_text("gradient of input {} alone", i), gradient_of(mixed[i]), array_of(run.gradients[i]),
            4 * allowed());
  }
}

void Checks::check_double_use(const Run& run) {
  std::vector<Tensor> leaves, shared;
  for (const Tensor& input : inputs_) leaves.push_back(leaf(input));
  for (const Tensor& x : leaves)
    shared.push_back(record("copy", x, {x}, [](const Tensor& dy, GradientSink& sink) { sink.add(0, dy); }));
  std::vector<Tensor> roots = case_.function(shared), seeds = random_weights(roots, 700);
  for (const Tensor& again : case_.function(shared)) roots.push_back(again);
  for (std::size_t i = 0; i < roots.size() / 2; ++i) seeds.push_back(seeds[i]);
  backward(roots, seeds);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Array doubled = mapped(array_of(run.gradients[i]), [](double g) { return 2 * g; });
    compare(format_text("gradient of input {} used twice", i), gradient_of(leaves[i]), doubled, 4 * allowed());
  }
}

void Checks::run(std::vector<std::string>& failures) {
  try {
    const Run run = run_once(inputs_);
    check_values(run);
    check_gradients(run);
    check_repetition(run);
    check_views(run);
    check_single_inputs(run);
    check_double_use(run);
  } catch (const std::exception& error) {
    fail(format_text("threw {}", error.what()));
  }
  failures.insert(failures.end(), lines_.begin(), lines_.end());
}

void run_checks(const OpCase& c, DType dtype, Device device, std::vector<std::string>& lines) {
  on(empty({1}, dtype, device), test_stream(0));  // stays, and is no leak
  const MemoryStatistics before = memory_statistics();
  Checks(c, dtype, device).run(lines);
  const MemoryStatistics after = memory_statistics();
  if (after.live_tensors != before.live_tensors || after.live_bytes != before.live_bytes)
    lines.push_back(format_text("{} in {} on {}: leaks {} tensors of {} bytes", c.name, dtype, device,
                                after.live_tensors - before.live_tensors,
                                after.live_bytes - before.live_bytes));
}

}  // namespace

std::vector<std::string> failures(const OpCase& c) {
  std::vector<std::string> lines;
  if (c.widening != 1 && c.reason.empty()) lines.push_back(c.name + ": a widened tolerance needs a reason");
  if (!c.reason.empty())
    std::cout << "[ widened  ] " << c.name << ": " << c.widening << " x, because " << c.reason << "\n";
  set_cuda_options({.deterministic = true});
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
      if (dtype != DType::bfloat16 || (device.type == DeviceType::cuda && c.has_bfloat16))
        run_checks(c, dtype, device, lines);
  set_cuda_options({});
  return lines;
}

void check(const std::vector<OpCase>& cases) {
  EXPECT_FALSE(cases.empty()) << "no case to check";
  for (const OpCase& c : cases)
    for (const std::string& line : failures(c)) ADD_FAILURE() << line;
}

}  // namespace tern::test
