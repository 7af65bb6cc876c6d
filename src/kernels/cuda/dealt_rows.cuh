// Narrow rows through products of one warp with no shared memory in between. Columns are dealt to lanes so that
// lane t of a quad owns eight neighbours, 16 bytes and one Philox block, in the fragments of four matrices:
// place 8 j + 2 t + e of 32 stands for column 8 t + 2 j + e, e = 0, 1. With rows and columns of a weight dealt
// likewise, a fragment of global memory is an operand as loaded, and sums are the next product's operand or a
// 16-byte store.
#pragma once

#include "kernels/cuda/warp_products.cuh"
#include "kernels/view.h"

namespace tern::kernels {

constexpr int dealt = 32;          ///< columns that one deal covers
constexpr int matrix_padding = 8;  ///< of rows in shared memory: eight rows then start in different banks

__device__ __forceinline__ int dealt_place(int column) {
  const int in_group = column & 31;
  return (column & ~31) | (in_group & 6) << 2 | (in_group & 24) >> 2 | (in_group & 1);
}
/// Writes columns 8 q .. 8 q + 7 of a row to their places.
__device__ __forceinline__ void store_dealt(bfloat16* row, int q, const uint4& columns) {
  auto* const words = reinterpret_cast<std::uint32_t*>(row) + (q / 4) * 16 + q % 4;
  words[0] = columns.x, words[4] = columns.y, words[8] = columns.z, words[12] = columns.w;
}
/// The block copies a matrix [rows, columns], both multiples of 32, to shared memory with rows and columns
/// dealt.
__device__ __forceinline__ void copy_dealt(const bfloat16* from, int rows, int columns, bfloat16* to) {
  const int packs = columns / 8;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < rows * packs; i += static_cast<int>(blockDim.x)) {
    const int r = i / packs, q = i - r * packs;
    store_dealt(to + dealt_place(r) * (columns + matrix_padding), q,
                __ldg(reinterpret_cast<const uint4*>(from) + i));
  }
}
template <int rows, int columns>
__device__ __forceinline__ void copy_dealt(const bfloat16* from, bfloat16* to) {
  copy_dealt(from, rows, columns, to);
}
/// Zeros where `from` is null.
__device__ __forceinline__ void copy_bias(const float* from, int count, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    to[i] = from != nullptr ? from[i] : 0.0f;
}

/// A lane's place: rows g and g + 8 of each of its warp's row tiles, columns 8 t .. 8 t + 7 of each deal.
struct LanePlace {
  int g, t;
};
/// Sums of 16 * m_tiles rows over one deal of columns.
template <int m_tiles>
using Deal = float[m_tiles][4][4];
/// The same rows as an operand over 16 depth places.
template <int m_tiles>
using Operand = std::uint32_t[m_tiles][4];

/// Rows first .. of x as operands; rows beyond the last read as the last.
template <int width, int m_tiles>
__device__ __forceinline__ void load_rows(Rows<const bfloat16> x, std::int64_t first, LanePlace lane,
                                          Operand<m_tiles> (&to)[width / 16]) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t wanted = first + m * 16 + half * 8 + lane.g, r = wanted < x.rows ? wanted : x.rows - 1;
      const auto* const row = reinterpret_cast<const uint4*>(x.data + r * x.stride) + lane.t;
#pragma unroll
      for (int d = 0; d < width / dealt; ++d) {
        const uint4 columns = __ldg(row + d * (dealt / 8));
        to[2 * d][m][half] = columns.x, to[2 * d][m][2 + half] = columns.y;
        to[2 * d + 1][m][half] = columns.z, to[2 * d + 1][m][2 + half] = columns.w;
      }
    }
}

/// Rows first .. of a deal's sums, rounded, to y, which points at the deal's first column.
template <int m_tiles>
__device__ __forceinline__ void store_deal(const Deal<m_tiles>& sums, std::int64_t first, std::int64_t rows,
                                           std::int64_t stride, LanePlace lane, bfloat16* y) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t r = first + m * 16 + half * 8 + lane.g;
      uint4 columns;
      columns.x = pack_pair(sums[m][0][2 * half], sums[m][0][2 * half + 1]);
      columns.y = pack_pair(sums[m][1][2 * half], sums[m][1][2 * half + 1]);
      columns.z = pack_pair(sums[m][2][2 * half], sums[m][2][2 * half + 1]);
      columns.w = pack_pair(sums[m][3][2 * half], sums[m][3][2 * half + 1]);
      if (r < rows) *(reinterpret_cast<uint4*>(y + r * stride) + lane.t) = columns;
    }
}

/// All rows of a deal's sums start from the bias of its columns.
template <int m_tiles>
__device__ __forceinline__ void start_sums(const float* bias, LanePlace lane, Deal<m_tiles>& sums) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 pair = *reinterpret_cast<const float2*>(bias + 8 * lane.t + 2 * j);
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      sums[m][j][0] = sums[m][j][2] = pair.x;
      sums[m][j][1] = sums[m][j][3] = pair.y;
    }
  }
}

/// sums += operands over 32 depth places times a matrix in shared memory. `row` is the address of the row that
/// this lane gives to load_matrices(): of the matrix as [columns, depth], lane % 8 and depth 8 * (lane / 8);
/// where `is_depth_first`, of [depth, columns], row `lane`.
template <int m_tiles, bool is_depth_first = false>
__device__ __forceinline__ void add_deal(const Operand<m_tiles>& first, const Operand<m_tiles>& second,
                                         std::uint32_t row, int stride, Deal<m_tiles>& sums) {
  std::uint32_t b[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if constexpr (is_depth_first)
      load_matrices_transposed(b[j], row + 2 * 8 * j);
    else
      load_matrices(b[j], row + 2 * 8 * j * stride);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int m = 0; m < m_tiles; ++m)
        add_product(sums[m][j], half == 0 ? first[m] : second[m], b[j][2 * half], b[j][2 * half + 1]);
}

}  // namespace tern::kernels
