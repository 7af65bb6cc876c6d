// The one sum that the tape needs below the ops.
#pragma once

#include "tern/tensor.h"

namespace tern {

/// target += source; equal shapes and types, `target` contiguous, `source` of any strides.
void accumulate(const Tensor& source, const Tensor& target);

}  // namespace tern
