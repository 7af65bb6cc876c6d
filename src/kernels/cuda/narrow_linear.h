// Narrow linear layers over many rows, bfloat16; deterministic.
#pragma once

#include "kernels/matmul.h"

namespace tern::kernels {

/// y = activation(x op(weight) + bias): op(weight) is weight^T of [outputs, inputs], or weight itself where it
/// is [inputs, outputs]. Null bias and `before` are left out; `before` receives the sums ahead of the
/// activation.
struct NarrowLinear {
  Rows<const bfloat16> x;
  std::int64_t outputs;
  const bfloat16* weight;
  Transpose transpose_weight;
  const float* bias;
  Activation activation;
  bfloat16 *before, *y;
};
/// Whether narrow_linear() takes these operands and is the faster way.
bool has_narrow_linear(const NarrowLinear& work);
void narrow_linear(Cuda& cuda, const NarrowLinear& work);

}  // namespace tern::kernels
