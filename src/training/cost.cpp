#include "training/cost.h"

#include <algorithm>

namespace tern {
namespace {

constexpr double bytes_of_float = 4;
constexpr double mechanism_rows = 2.5;  // its result, and between none and three further rows

struct Widths {
  double width, hidden, layers;
  explicit Widths(const ModelConfig& model)
      : width(static_cast<double>(model.width)),
        hidden(static_cast<double>(model.hidden_width)),
        layers(static_cast<double>(model.layers)) {}
};

AttentionShape shape_of(const ModelConfig& model, const TaskInterface& task, std::int64_t length) {
  return {model.heads, model.width / model.heads, std::max(task.padded_length, length)};
}

/// Multiply-adds of all layers for one sequence.
double encoder_multiply_adds(const ModelConfig& model, const TaskInterface& task, std::int64_t length) {
  const Widths x(model);
  const auto tokens = static_cast<double>(length);
  const double attention = find_attention_kind(model.attention.kind())
                               .multiply_adds(model.attention, shape_of(model, task, length), tokens);
  return x.layers * (tokens * (4 * x.width * x.width + 2 * x.width * x.hidden) + attention);
}

double head_multiply_adds(const ModelConfig& model, const TaskInterface& task) {
  const auto inputs = static_cast<double>((task.is_pair ? 4 : 1) * model.width);
  return static_cast<double>(model.head_width) * (inputs + static_cast<double>(task.outputs));
}

/// Floats that are alive for each token at the peak of a step.
double floats_of_token(const ModelConfig& model, const AttentionShape& shape) {
  const Widths x(model);
  const double mechanism = mechanism_rows * x.width +
                           find_attention_kind(model.attention.kind()).kept_numbers(model.attention, shape);
  const double layer = (4 + 3) * x.width + mechanism + x.hidden;
  const double kept = model.recompute ? 2 * x.layers * x.width + layer : x.layers * layer;
  const double in_flight = std::max(8 * x.width, 3 * x.width + 2 * x.hidden);
  return kept + in_flight;
}

}  // namespace

Cost estimate_cost(const ModelConfig& model, const TaskInterface& task, std::int64_t parameters,
                   std::int64_t examples, std::int64_t length) {
  const double sequences = static_cast<double>(examples) * (task.is_pair ? 2 : 1);
  const double encoder = 2 * sequences * encoder_multiply_adds(model, task, length);
  const double head = 2 * static_cast<double>(examples) * head_multiply_adds(model, task);
  Cost cost;
  cost.forward_operations = encoder + head;
  cost.training_operations = 3 * cost.forward_operations + (model.recompute ? encoder : 0);
  cost.training_bytes = bytes_of_float * (4 * static_cast<double>(parameters) +
                                          sequences * static_cast<double>(length) *
                                              floats_of_token(model, shape_of(model, task, length)));
  return cost;
}

}  // namespace tern
