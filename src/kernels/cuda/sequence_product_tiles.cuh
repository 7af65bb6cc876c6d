// Tiles of bfloat16 rows in shared memory and the fragments of products on tensor cores that are read from them
// (warp_products.cuh names the fragments).
#pragma once

#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {

constexpr int product_tile = 64;  ///< columns of a tile
/// Distance of a tile's rows: eight successive ones begin in different banks.
constexpr int tile_stride = product_tile + 8;
constexpr int tile_packs = product_tile / 8;  ///< 16-byte packs of a row

/// Copies columns `column` .. `column` + 63 of `rows` rows from `token` on to shared memory, behind the
/// computation. Rows from `count` on and columns beyond the width become zero.
template <int rows, int threads>
__device__ __forceinline__ void copy_tile(bfloat16* to, const Heads<const bfloat16>& x, std::int64_t token,
                                          int count, int head, int column) {
#pragma unroll
  for (int i = 0; i < rows * tile_packs / threads; ++i) {
    const int pack = i * threads + static_cast<int>(threadIdx.x), row = pack / tile_packs,
              place = pack % tile_packs * 8;
    const bool is_inside = row < count && column + place < x.width;
    copy_ahead<16>(shared_address(to + row * tile_stride + place),
                   is_inside ? row_of(x, token + row, head) + column + place : x.data, is_inside);
  }
}

/// a of the product of rows `row` .. `row` + 15 with depth `depth` .. + 15 of a tile.
__device__ __forceinline__ void load_rows(std::uint32_t (&a)[4], const bfloat16* tile, int row, int depth) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  load_matrices(a, shared_address(tile + (row + lane % 16) * tile_stride + depth + lane / 16 * 8));
}
/// a where the tile holds depth by rows.
__device__ __forceinline__ void load_rows_transposed(std::uint32_t (&a)[4], const bfloat16* tile, int row,
                                                     int depth) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  load_matrices_transposed(
      a, shared_address(tile + (depth + lane % 8 + lane / 16 * 8) * tile_stride + row + lane / 8 % 2 * 8));
}
/// b of columns `column` .. + 7 in b[0], b[1] and of the next eight in b[2], b[3], where the tile holds depth
/// by columns.
__device__ __forceinline__ void load_columns(std::uint32_t (&b)[4], const bfloat16* tile, int depth,
                                             int column) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  load_matrices_transposed(b,
                           shared_address(tile + (depth + lane % 16) * tile_stride + column + lane / 16 * 8));
}
/// The same where the tile holds columns by depth.
__device__ __forceinline__ void load_columns_transposed(std::uint32_t (&b)[4], const bfloat16* tile, int depth,
                                                        int column) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  load_matrices(
      b, shared_address(tile + (column + lane % 8 + lane / 16 * 8) * tile_stride + depth + lane / 8 % 2 * 8));
}

}  // namespace tern::kernels
