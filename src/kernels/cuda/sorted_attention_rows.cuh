// Loops over the rows of all heads, for what attention along a sort does to each row: without divisions, some
// neighbouring elements at a time.
#pragma once

#include <type_traits>

#include "kernels/cuda/heads.cuh"

namespace tern::kernels {
namespace {

constexpr int row_threads = 256, row_lanes = 16;

/// visit(token, head, index of the row in [tokens, heads]) by `row_lanes` lanes at once. Lanes of one warp
/// visit together, so that behind an odd last token some visit a token that does not exist.
template <class Visit>
__device__ __forceinline__ void visit_rows(std::int64_t tokens, int heads, const Visit& visit) {
  constexpr int rows = warp_lanes / row_lanes;
  for (int head = static_cast<int>(blockIdx.y); head < heads; head += static_cast<int>(gridDim.y))
    for (std::int64_t first = thread_index() / warp_lanes * rows; first < tokens;
         first += grid_threads() / row_lanes) {
      const std::int64_t token = first + static_cast<int>(threadIdx.x) % warp_lanes / row_lanes;
      visit(token, head, token * heads + head);
    }
}
/// visit(column) for the packs of `items` columns of a row that belong to this lane.
template <int items, class Visit>
__device__ __forceinline__ void visit_packs(int width, const Visit& visit) {
  for (int c = static_cast<int>(threadIdx.x) % row_lanes * items; c < width; c += row_lanes * items) visit(c);
}

template <class T>
dim3 row_grid(const Cuda& cuda, const Heads<T>& x) {
  return {grid_for(cuda, x.tokens * row_lanes, row_threads), static_cast<unsigned>(std::min(x.heads, 65535))};
}
/// Calls run(items) with the number of columns that all rows can move at once.
template <class Run, class... T>
void with_pack(const Run& run, const Heads<T>&... x) {
  if ((rows_move_by(x, 4) && ...))
    run(std::integral_constant<int, 4>{});
  else
    run(std::integral_constant<int, 1>{});
}

}  // namespace
}  // namespace tern::kernels
