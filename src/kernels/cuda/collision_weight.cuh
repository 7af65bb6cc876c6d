// The weight of colliding pairs under the exact gradient.
#pragma once

#include "kernels/cuda/block.cuh"

namespace tern::kernels {

/// 1 / ((pi - arccos s) sqrt(1 - s^2)) with s clamped to +-(1 - 1e-6).
template <class A>
__device__ __forceinline__ A exact_weight(A s) {
  constexpr A bound = A(1) - A(1e-6);
  s = s > bound ? bound : s;
  s = s < -bound ? -bound : s;
  const A square = (A(1) - s) * (A(1) + s);
  if constexpr (sizeof(A) == 4)
    return 1.0f / (acosf(-s) * sqrtf(square));
  else
    return 1.0 / (acos(-s) * sqrt(square));
}

}  // namespace tern::kernels
