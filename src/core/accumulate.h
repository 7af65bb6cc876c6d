// What the tape and the gradient closures do to gradients below the ops.
#pragma once

#include "tern/tensor.h"

namespace tern {

/// target += source; equal shapes and types, `target` contiguous, `source` of any strides.
void accumulate(const Tensor& source, const Tensor& target);
/// Writes zeros; `target` contiguous.
void clear(const Tensor& target);

}  // namespace tern
