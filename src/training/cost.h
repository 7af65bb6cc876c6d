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

/// Cost of `examples` examples whose sequences all have `length` tokens; `parameters` is the model's count.
///
/// Operations, for each token, layer and sequence: 8 width attention_width for the four projections, 4 width
/// hidden_width for the feed-forward block, twice the mechanism's multiply_adds. Element-wise work is left out.
/// The backward pass counts twice the forward pass, recomputation once more.
///
/// Bytes: 4 for each of value, gradient and two moments of a parameter; and for each token the rows that the
/// tape keeps: in every layer four rows of the norms, query, key, value and the mechanism's result and own rows
/// (taken as 2.5), two more with rotary positions, one of the hidden width; and the gradients in flight at the
/// widest place of the backward pass, or the head and its logits where it predicts tokens. Within a factor 1.5
/// of the measured peak for the mechanisms that are built in, except for hundreds of hashes.
Cost estimate_cost(const ModelConfig& model, const TaskInterface& task, std::int64_t parameters,
                   std::int64_t examples, std::int64_t length);

}  // namespace tern
