// The largest score and the sum of weights of rows whose scores pass by in chunks.
#pragma once

#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {

/// Of a warp's 16 rows; sums are parts of the four lanes that share a row.
template <class Shape>
struct RowStatistics {
  float top[2], sum[2];  ///< of rows g and g + 8

  /// Scores -> packed weights; rescales the sums so far.
  __device__ __forceinline__ void weigh(const typename Shape::Products& s, typename Shape::Outputs& out,
                                        typename Shape::Weights& weights) {
    static_assert(Shape::row_tiles == 1);
    float shift[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int j = 0; j < Shape::groups * 4; ++j) most = fmaxf(most, s[j / 4][j / 2 % 2][2 * half + j % 2]);
      most = row_max(most);
      shift[half] = most == -INFINITY ? 0.0f : most;  // a row that has seen nothing yet
      const float rescale = power_of_two(top[half] - shift[half]);
      top[half] = most;
      sum[half] *= rescale;
#pragma unroll
      for (int n = 0; n < Shape::outputs / 8; ++n) {
        out[0][n][2 * half] *= rescale;
        out[0][n][2 * half + 1] *= rescale;
      }
    }
#pragma unroll
    for (int u = 0; u < Shape::blocks16; ++u) {
      float p[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2;
        p[i / 4][i % 4] = power_of_two(s[u][i / 4][i % 4] - shift[half]);
        sum[half] += p[i / 4][i % 4];
      }
      weights[u] = pack_fragment(p);
    }
  }
};

}  // namespace tern::kernels
