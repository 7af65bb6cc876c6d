// Products for operands of many columns on tensor cores: a block computes 128 x 128 results, a warp 32 x 64 of
// them, while the next three steps along the depth are on their way (warp_products.cuh names the fragments).
#pragma once

#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {
namespace {

constexpr int wide_tile = 128, wide_depth = 32, wide_stages = 4, wide_threads = 256;
constexpr int warp_tile_rows = 32, warp_tile_columns = 64, result_stride = warp_tile_columns + 8;

/// An operand's share of a step in shared memory: [depth][128], or where not `by_depth` [128][depth].
template <bool by_depth>
struct WideTile {
  static constexpr int rows = by_depth ? wide_depth : wide_tile, columns = by_depth ? wide_tile : wide_depth;
  static constexpr int stride = columns + 8;  ///< eight successive rows begin in different banks
  static constexpr int elements = rows * stride;
};
/// What it is copied from: rows `stride` apart; those from `rows` on and columns from `columns` on are zeros.
struct WideSource {
  const bfloat16* data;
  std::int64_t stride, rows, columns;
};
template <bool by_depth>
__device__ __forceinline__ void copy_wide(bfloat16* to, const WideSource& from) {
  using Tile = WideTile<by_depth>;
  constexpr int row_packs = Tile::columns / 8;
#pragma unroll
  for (int i = 0; i < Tile::rows * row_packs / wide_threads; ++i) {
    const int pack = i * wide_threads + static_cast<int>(threadIdx.x), row = pack / row_packs,
              column = pack % row_packs * 8;
    const bool is_inside = row < from.rows && column < from.columns;
    copy_ahead<16>(shared_address(to + row * Tile::stride + column),
                   is_inside ? from.data + row * from.stride + column : from.data, is_inside);
  }
}

/// A warp's sums: [16 rows][8 columns][fragment].
using WideSums = float[warp_tile_rows / 16][warp_tile_columns / 8][4];
__device__ __forceinline__ int warp_tile_row() {
  return static_cast<int>(threadIdx.x) / warp_lanes / 2 * warp_tile_rows;
}
__device__ __forceinline__ int warp_tile_column() {
  return static_cast<int>(threadIdx.x) / warp_lanes % 2 * warp_tile_columns;
}

/// sums += a b of one step.
template <bool a_by_depth, bool b_by_depth>
__device__ __forceinline__ void add_step(WideSums& sums, const bfloat16* a_tile, const bfloat16* b_tile) {
  constexpr int a_stride = WideTile<a_by_depth>::stride, b_stride = WideTile<b_by_depth>::stride;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, row = warp_tile_row(),
            column = warp_tile_column();
#pragma unroll
  for (int k = 0; k < wide_depth; k += 16) {
    std::uint32_t a[warp_tile_rows / 16][4];
#pragma unroll
    for (int m = 0; m < warp_tile_rows / 16; ++m)
      if constexpr (a_by_depth)
        load_matrices_transposed(a[m], shared_address(a_tile + (k + lane % 8 + lane / 16 * 8) * a_stride + row +
                                                      16 * m + lane / 8 % 2 * 8));
      else
        load_matrices(a[m], shared_address(a_tile + (row + 16 * m + lane % 16) * a_stride + k + lane / 16 * 8));
#pragma unroll
    for (int n = 0; n < warp_tile_columns / 16; ++n) {
      std::uint32_t b[4];
      if constexpr (b_by_depth)
        load_matrices_transposed(
            b, shared_address(b_tile + (k + lane % 16) * b_stride + column + 16 * n + lane / 16 * 8));
      else
        load_matrices(b, shared_address(b_tile + (column + 16 * n + lane % 8 + lane / 16 * 8) * b_stride + k +
                                        lane / 8 % 2 * 8));
#pragma unroll
      for (int m = 0; m < warp_tile_rows / 16; ++m) {
        add_product(sums[m][2 * n], a[m], b[0], b[1]);
        add_product(sums[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Bytes of shared memory; results are laid there by warps afterwards.
template <bool a_by_depth, bool b_by_depth>
constexpr int wide_bytes = wide_stages*(WideTile<a_by_depth>::elements + WideTile<b_by_depth>::elements) *
                           static_cast<int>(sizeof(bfloat16));
static_assert(wide_bytes<true, true> >= wide_threads / warp_lanes * warp_tile_rows * result_stride * 2);

/// sums += a b over all steps; a_at(step) and b_at(step) are the sources. All threads take part, and shared
/// memory is free afterwards.
template <bool a_by_depth, bool b_by_depth, class A, class B>
__device__ __forceinline__ void add_wide(WideSums& sums, std::byte* memory, int steps, const A& a_at,
                                         const B& b_at) {
  constexpr int a_elements = WideTile<a_by_depth>::elements,
                stage_elements = a_elements + WideTile<b_by_depth>::elements;
  bfloat16* const tiles = reinterpret_cast<bfloat16*>(memory);
  const auto copy = [&](int step) {
    if (step < steps) {
      bfloat16* const to = tiles + step % wide_stages * stage_elements;
      copy_wide<a_by_depth>(to, a_at(step));
      copy_wide<b_by_depth>(to + a_elements, b_at(step));
    }
    commit_copies();
  };
  for (int step = 0; step < wide_stages - 1; ++step) copy(step);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_copies<wide_stages - 2>();
    __syncthreads();
    copy(step + wide_stages - 1);
    const bfloat16* const a_tile = tiles + step % wide_stages * stage_elements;
    add_step<a_by_depth, b_by_depth>(sums, a_tile, a_tile + a_elements);
  }
  wait_copies<0>();
  __syncthreads();
}

}  // namespace
}  // namespace tern::kernels
