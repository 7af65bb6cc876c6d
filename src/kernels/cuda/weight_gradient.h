// Gradients of narrow linear layers over many rows, bfloat16; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Whether narrow_weight_gradient() takes these operands and is the faster way.
bool has_narrow_weight_gradient(Rows<const bfloat16> x, std::int64_t outputs, const bfloat16* dy);
/// dweight [outputs, x.width] += dy^T x and, unless null, dbias [outputs] += sums of dy over rows, in float32.
void narrow_weight_gradient(Cuda& cuda, Rows<const bfloat16> x, std::int64_t outputs, const bfloat16* dy,
                            float* dweight, float* dbias);

}  // namespace tern::kernels
