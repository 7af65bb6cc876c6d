// What a model costs by length, computed from its configuration: no data, no run.
#pragma once

#include <cstdint>

#include "tern/experiment.h"

namespace tern {

struct Cost {
  double forward_operations = 0;   ///< floating-point operations of one forward pass (a multiply-add is two)
  double training_operations = 0;  ///< of forward and backward pass
  double training_bytes = 0;  ///< parameters, gradients, moments, and the largest live activations of a step
};

/// Examples that are computed at once, all with sequences of `length` tokens, and the type of their rows.
struct BatchCost {
  std::int64_t examples, length;
  DType dtype = DType::float32;
};

/// Cost of such a batch; `parameters` is the model's count.
///
/// Operations, for each token, layer and sequence: 8 width attention_width for the four projections, 4 width
/// hidden_width for the feed-forward block, twice the mechanism's multiply_adds. Element-wise work is left out.
/// The backward pass counts twice the forward pass, recomputation once more.
///
/// Bytes: 4 for each of value, gradient and two moments of a parameter, and for its rounded value where rows
/// are bfloat16; and for each token the rows that the tape keeps, 4 or 2 for each number: in every layer four
/// rows of the norms, query, key, value and the mechanism's result and own rows (taken as 2.5), two more with
/// rotary positions, one of the hidden width; and the gradients in flight at the widest place of the backward
/// pass, or the head and its logits where it predicts tokens. In float32 within a factor 1.5 of the measured
/// peak for the mechanisms that are built in, except for hundreds of hashes; in bfloat16 what stays float32 is
/// counted too low.
Cost estimate_cost(const ModelConfig& model, const TaskInterface& task, std::int64_t parameters,
                   const BatchCost& batch);

}  // namespace tern
