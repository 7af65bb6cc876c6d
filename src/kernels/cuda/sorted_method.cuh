// How a block of attention along a sort multiplies: on tensor cores where rows are bfloat16, else plainly.
#pragma once

#include "kernels/cuda/sorted_attention_products.cuh"
#include "kernels/cuda/sorted_attention_simt.cuh"

namespace tern::kernels {
namespace {

/// Whether rows may be read 16 bytes at a time. The last pack of a bfloat16 row may reach beyond its columns.
template <class... T>
bool have_packs(const Heads<const T>&... x) {
  return ((std::is_same_v<T, bfloat16> ? has_packs(x) : rows_move_by(x, 4)) && ...);
}

/// Calls run(method) with the one that suits the rows. `blocks` share a multiprocessor's registers where heads
/// are narrow, one less from 33 columns on.
template <class T, int blocks, class Run>
void with_sorted_method(int width, Run run) {
  if constexpr (std::is_same_v<T, double>) {
    run(SortedSimt<double, SimtTiles<double, 32, 1, 1>>{});
  } else if constexpr (std::is_same_v<T, float>) {
    if (width <= 32)
      run(SortedSimt<float, SimtTiles<float, 32, 1, 2>>{});
    else
      run(SortedSimt<float, SimtTiles<float, 64, 1, 2>>{});
  } else {
    require(width <= widest_head,
            "sorted_attention in bfloat16: heads must have at most {} columns, got {}; use more heads or "
            "run.precision=float32",
            widest_head, width);
    if (width <= 32)
      run(SortedProducts<AttentionShape<32, 1, 2, 4, 64, blocks>>{});
    else if (width <= 64)
      run(SortedProducts<AttentionShape<64, 1, 2, 4, 64, blocks - 1>>{});
    else if (width <= 128)
      run(SortedProducts<AttentionShape<128, 1, 2, 4, 64, 1, false>>{});
    else
      run(SortedProducts<AttentionShape<256, 1, 2, 4, 64, 1, false>>{});
  }
}

}  // namespace
}  // namespace tern::kernels
