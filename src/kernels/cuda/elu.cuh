// The feature map of linear attention, elu + 1, and its slope.
#pragma once

#include "kernels/cuda/block.cuh"

namespace tern::kernels {

__device__ __forceinline__ float elu_plus_one(float x) { return x > 0 ? x + 1 : __expf(x); }
__device__ __forceinline__ float elu_slope(float x) { return x > 0 ? 1.0f : __expf(x); }

}  // namespace tern::kernels
