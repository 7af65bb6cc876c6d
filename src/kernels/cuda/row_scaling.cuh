// The gradient of rows that were scaled to length one, on gradients that lie in registers as sums of products.
#pragma once

#include "kernels/cuda/warp_products.cuh"
#include "kernels/layer_norm.h"

namespace tern::kernels {

/// d = (d - x (x . d)) / length for a row x = z / length; 0 where rows have no direction. Lane t of the row's
/// four holds columns 8 c + 2 t and + 1 in d[4 c + 2 half] and the next. `x`: null where there is no row.
template <int count>
__device__ __forceinline__ void pass_row_scaling(const bfloat16* x, float length, int half, float (&d)[count]) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  std::uint32_t pair[count / 4];
  float dot = 0;
#pragma unroll
  for (int c = 0; c < count / 4; ++c) {
    pair[c] = x != nullptr ? *reinterpret_cast<const std::uint32_t*>(x + 8 * c + 2 * t) : 0;
    dot += first_of(pair[c]) * d[4 * c + 2 * half] + second_of(pair[c]) * d[4 * c + 2 * half + 1];
  }
  dot = warp_sum(dot, 4);
  const float factor = length < static_cast<float>(smallest_norm) ? 0.0f : 1.0f / length;
#pragma unroll
  for (int c = 0; c < count / 4; ++c) {
    d[4 * c + 2 * half] = (d[4 * c + 2 * half] - first_of(pair[c]) * dot) * factor;
    d[4 * c + 2 * half + 1] = (d[4 * c + 2 * half + 1] - second_of(pair[c]) * dot) * factor;
  }
}

}  // namespace tern::kernels
