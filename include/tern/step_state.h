// The record of one training step: everything that changes from step to step, in the memory of the device that
// computes, so that a captured graph reads it there and nothing of it is baked in.
#pragma once

#include <cstdint>

namespace tern {

/// Sums over targets: examples, or masked tokens.
struct ScoreTotals {
  double loss = 0, correct = 0, examples = 0;
};

struct StepState {
  // written by the host before a step
  std::uint32_t step = 0;  ///< updates tried; also the random streams' step
  double learning_rate = 0, beta1 = 0;
  // written by kernels
  ScoreTotals score;          ///< of the step's batch
  std::int64_t updates = 0;   ///< updates applied
  double gradient_norm = 0;   ///< of the mean gradient, before clipping
  double gradient_scale = 1;  ///< 1 / number of targets, times the clip factor
  bool is_finite = true;      ///< whether loss and gradient were; the update obeys it
};

}  // namespace tern
