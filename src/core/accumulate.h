// What the tape and the gradient closures do to gradients below the ops.
#pragma once

#include "tern/tensor.h"

namespace tern {

/// target += source; equal shapes on one device, any strides and number types.
void accumulate(const Tensor& source, const Tensor& target);
/// Writes zeros; `target` contiguous.
void clear(const Tensor& target);
/// Writes `value`; `target` contiguous.
void fill(const Tensor& target, double value);

}  // namespace tern
