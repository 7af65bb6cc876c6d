#include "training/cost.h"

#include <algorithm>

namespace tern {
namespace {

constexpr double bytes_of_float = 4;
constexpr double mechanism_rows = 2.5;  // its result, and between none and three further rows

struct Widths {
  double width, inner, hidden, layers;
  explicit Widths(const ModelConfig& model)
      : width(static_cast<double>(model.width)),
        inner(static_cast<double>(model.inner_width())),
        hidden(static_cast<double>(model.hidden_width)),
        layers(static_cast<double>(model.layers)) {}
};

AttentionShape shape_of(const ModelConfig& model, const TaskInterface& task, std::int64_t length) {
  return {model.heads, model.inner_width() / model.heads, std::max(task.padded_length, length)};
}

/// Multiply-adds of all layers for one sequence.
double encoder_multiply_adds(const ModelConfig& model, const TaskInterface& task, std::int64_t length) {
  const Widths x(model);
  const auto tokens = static_cast<double>(length);
  const double attention = find_attention_kind(model.attention.kind())
                               .multiply_adds(model.attention, shape_of(model, task, length), tokens);
  return x.layers * (tokens * (4 * x.width * x.inner + 2 * x.width * x.hidden) + attention);
}

/// Multiply-adds of the head for one example.
double head_multiply_adds(const ModelConfig& model, const TaskInterface& task, std::int64_t length) {
  if (task.predicts_tokens) {
    const auto tokens = static_cast<double>((task.is_pair ? 2 : 1) * length);
    return tokens * static_cast<double>(model.width * (model.width + task.vocabulary));
  }
  const auto inputs = static_cast<double>(head_inputs(model, task)),
             hidden = static_cast<double>(model.head_width), outputs = static_cast<double>(task.outputs);
  if (task.is_pair && model.pair_features == PairFeatures::rows)
    return hidden * (inputs + hidden / 2) + hidden / 2 * outputs;
  return hidden * (inputs + outputs);
}

/// Numbers that are alive for each token at the peak of a step, where sequences have `length` tokens.
double numbers_of_token(const ModelConfig& model, const TaskInterface& task, const AttentionShape& shape,
                        double length) {
  const Widths x(model);
  const AttentionKind& kind = find_attention_kind(model.attention.kind());
  const double mechanism =
      mechanism_rows * x.inner + kind.kept_numbers(model.attention, shape, length) / std::max(length, 1.0);
  const double turned = model.positions == PositionKind::rotary ? 2 * x.inner : 0;
  const double layer = 4 * x.width + 3 * x.inner + turned + mechanism + x.hidden;
  const double kept = model.recompute ? 2 * x.layers * x.width + layer : x.layers * layer;
  const double in_flight = std::max(8 * x.width, 3 * x.width + 2 * x.hidden);
  if (!task.predicts_tokens) return kept + in_flight;
  // The head: its four rows, logits and their gradient. They are gone when the first layer's gradient is due.
  const double head = 4 * x.width + 2 * static_cast<double>(task.vocabulary);
  const double layers = model.recompute ? 2 * x.layers * x.width : kept;
  return std::max(kept + in_flight, layers + head);
}

}  // namespace

Cost estimate_cost(const ModelConfig& model, const TaskInterface& task, std::int64_t parameters,
                   const BatchCost& batch) {
  const auto examples = static_cast<double>(batch.examples), tokens = static_cast<double>(batch.length);
  const double sequences = examples * (task.is_pair ? 2 : 1);
  const double encoder = 2 * sequences * encoder_multiply_adds(model, task, batch.length);
  const double head = 2 * examples * head_multiply_adds(model, task, batch.length);
  Cost cost;
  cost.forward_operations = encoder + head;
  cost.training_operations = 3 * cost.forward_operations + (model.recompute ? encoder : 0);
  const auto row_bytes = static_cast<double>(size_of(batch.dtype));
  const double parameter_bytes = 4 * bytes_of_float + (batch.dtype == DType::bfloat16 ? row_bytes : 0);
  const AttentionShape shape = shape_of(model, task, batch.length);
  cost.training_bytes = parameter_bytes * static_cast<double>(parameters) +
                        row_bytes * sequences * tokens * numbers_of_token(model, task, shape, tokens);
  return cost;
}

}  // namespace tern
