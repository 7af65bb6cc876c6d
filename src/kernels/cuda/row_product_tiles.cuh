// Products of a sequence's rows with the sequence's matrix on tensor cores; rows may be mapped on their way to
// the products.
#pragma once

#include "kernels/cuda/elu.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/sequence_product_tiles.cuh"
#include "kernels/sequence_products.h"

namespace tern::kernels {
namespace {

/// The rows of a block and the matrix that belongs to them.
struct RowBlock {
  std::int64_t first, pair;
  int count, head;
};

/// Block (x, y): block x % parts of sequence x / parts, head y.
__device__ __forceinline__ RowBlock row_block(const SequenceRange& range, int heads, int parts, int rows) {
  const int head = static_cast<int>(blockIdx.y), begin = static_cast<int>(blockIdx.x) % parts * rows;
  const int rest = range.length - begin;
  return {std::int64_t{range.begin} + begin, std::int64_t{range.index} * heads + head,
          rest < rows ? rest : rows, head};
}

inline int parts_of(const Sequences& sequences, int rows) {
  return static_cast<int>(std::max<std::int64_t>(1, (sequences.longest + rows - 1) / rows));
}
/// Blocks of `rows` rows and `columns` columns, those of the rows outside all sequences among them.
template <class T>
dim3 product_grid(const Sequences& sequences, const RowProducts<T>& in, int rows, int columns) {
  return dim3(static_cast<unsigned>((sequences.count + 1) * parts_of(sequences, rows)),
              static_cast<unsigned>(in.x.heads), static_cast<unsigned>((in.y.width + columns - 1) / columns));
}

/// Zeros for rows outside all sequences, from the blocks that have the index of the sequence behind the last.
template <class T>
__device__ void clear_unused(const RowProducts<T>& in, const SequenceRange& range, int parts) {
  if (blockIdx.z != 0) return;
  const int head = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x) % parts;
  const std::int64_t entries = std::int64_t{range.length} * in.y.width;
  for (std::int64_t i = std::int64_t{part} * blockDim.x + threadIdx.x; i < entries;
       i += std::int64_t{parts} * blockDim.x) {
    const std::int64_t token = range.begin + i / in.y.width;
    row_of(in.y, token, head)[i % in.y.width] = from_accumulate<T>(0);
    if (in.totals.divisors != nullptr) in.totals.divisors[token * in.x.heads + head] = 1;
  }
}

constexpr int product_threads = 256, block_rows = product_threads / warp_lanes * 16;

/// Matrices as row_products gets them.
struct StoredMatrices {
  const float* matrices;
};
/// Those of attention with the feature map phi = elu + 1, which is applied to x where `maps_rows`; results are
/// multiplied by factors[token, head] and by the slope of phi at `slopes`, where these are not null.
struct MappedRows {
  const bfloat16* matrices;
  bool maps_rows = false;
  const float* factors = nullptr;
  Heads<const bfloat16> slopes{};
};

/// A 64 x 64 tile of a matrix; zeros beyond it.
__device__ __forceinline__ void load_matrix(bfloat16* to, const bfloat16* from, int rows, int columns, int row,
                                            int column) {
#pragma unroll
  for (int i = 0; i < product_tile * tile_packs / product_threads; ++i) {
    const int pack = i * product_threads + static_cast<int>(threadIdx.x), r = pack / tile_packs,
              c = pack % tile_packs * 8;
    Pack<bfloat16, 8> items{};
    if (row + r < rows && column + c < columns)
      items = load_pack<8>(from + std::int64_t{row + r} * columns + column + c);
    store_pack(to + r * tile_stride + c, items);
  }
}
/// The same, rounded to bfloat16.
__device__ __forceinline__ void load_matrix(bfloat16* to, const float* from, int rows, int columns, int row,
                                            int column) {
#pragma unroll
  for (int i = 0; i < product_tile * product_tile / 4 / product_threads; ++i) {
    const int pack = i * product_threads + static_cast<int>(threadIdx.x), r = pack / (product_tile / 4),
              c = pack % (product_tile / 4) * 4;
    Pack<float, 4> items{};
    if (row + r < rows && column + c < columns)
      items = load_pack<4>(from + std::int64_t{row + r} * columns + column + c);
    store_pack(reinterpret_cast<std::uint32_t*>(to + r * tile_stride + c),
               Pack<std::uint32_t, 2>{pack_pair(items.item[0], items.item[1]),
                                      pack_pair(items.item[2], items.item[3])});
  }
}

/// Finishes the sums of a lane's row `g` + 8 * half; `divisor_sum` lies in lane 4 g.
template <class Sums>
__device__ __forceinline__ void finish_row(const RowProducts<bfloat16>& in, const RowBlock& block, int row,
                                           int half, int tile_column, float divisor_sum, Sums& sums) {
  using Use = RowTotals<bfloat16>::Use;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t place = (block.first + row) * in.x.heads + block.head;
  if (in.totals.use == Use::divide) {
    const float divisor =
        __shfl_sync(0xFFFFFFFFu, divisor_sum, lane / 4 * 4) + static_cast<float>(in.totals.epsilon);
    const float factor = 1.0f / divisor;
    if (in.totals.divisors != nullptr && lane % 4 == 0 && tile_column == 0 && row < block.count)
      in.totals.divisors[place] = divisor;
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n) sums[n][2 * half] *= factor, sums[n][2 * half + 1] *= factor;
  }
  if (in.totals.use == Use::add) {
    const float weight = in.totals.weights == nullptr ? 1.0f
                         : row < block.count          ? in.totals.weights[place]
                                                      : 0.0f;
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n)
      if (const int column = tile_column + 8 * n + lane % 4 * 2; column < in.y.width) {
        const Pack<float, 2> vector = load_pack<2>(in.totals.vectors + block.pair * in.y.width + column);
        sums[n][2 * half] += weight * vector.item[0];
        sums[n][2 * half + 1] += weight * vector.item[1];
      }
  }
}

/// phi of a fragment's entries.
__device__ __forceinline__ void map_fragment(std::uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack_pair(elu_plus_one(first_of(a[i])), elu_plus_one(second_of(a[i])));
}

/// Factors and slopes for the sums of a lane's row.
template <class Sums>
__device__ __forceinline__ void scale_row(const MappedRows& mapped, const RowProducts<bfloat16>& in,
                                          const RowBlock& block, int row, int half, int tile_column,
                                          Sums& sums) {
  if (row >= block.count) return;
  const std::int64_t token = block.first + row;
  const float factor = mapped.factors == nullptr ? 1.0f : mapped.factors[token * in.x.heads + block.head];
#pragma unroll
  for (int n = 0; n < product_tile / 8; ++n) {
    const int column = tile_column + 8 * n + static_cast<int>(threadIdx.x) % 4 * 2;
    Pack<bfloat16, 2> x{};
    const bool has_slopes = mapped.slopes.data != nullptr && column < in.y.width;
    if (has_slopes) x = load_pack<2>(row_of(mapped.slopes, token, block.head) + column);
    sums[n][2 * half] *= has_slopes ? factor * elu_slope(to_accumulate(x.item[0])) : factor;
    sums[n][2 * half + 1] *= has_slopes ? factor * elu_slope(to_accumulate(x.item[1])) : factor;
  }
}

/// Block (x, y, z): 128 rows, head y, columns 64 z .. 64 z + 63; a warp takes 16 rows.
template <bool is_transposed, class Matrices>
__global__ void __launch_bounds__(product_threads, 3)
    multiply_tiles(Sequences sequences, RowProducts<bfloat16> in, int parts, Matrices matrices) {
  constexpr bool is_mapped = std::is_same_v<Matrices, MappedRows>;
  __shared__ __align__(128) bfloat16 rows_tile[block_rows * tile_stride],
      matrix_tile[product_tile * tile_stride];
  __shared__ float vector[product_tile];
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / parts);
  if (range.index == sequences.count) return clear_unused(in, range, parts);
  const RowBlock block = row_block(range, in.x.heads, parts, block_rows);
  if (block.count <= 0) return;
  const int tile_column = static_cast<int>(blockIdx.z) * product_tile,
            lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16;
  const bool divides = in.totals.use == RowTotals<bfloat16>::Use::divide;
  const auto* matrix = matrices.matrices + block.pair * in.x.width * in.y.width;
  float sums[product_tile / 8][4] = {}, divisor[4] = {};
  for (int depth = 0; depth < in.x.width; depth += product_tile) {
    if (depth > 0) __syncthreads();
    copy_tile<block_rows, product_threads>(rows_tile, in.x, block.first, block.count, block.head, depth);
    commit_copies();
    if (is_transposed)
      load_matrix(matrix_tile, matrix, in.y.width, in.x.width, tile_column, depth);
    else
      load_matrix(matrix_tile, matrix, in.x.width, in.y.width, depth, tile_column);
    if (const int i = static_cast<int>(threadIdx.x); divides && i < product_tile)
      vector[i] = depth + i < in.x.width ? in.totals.vectors[block.pair * in.x.width + depth + i] : 0.0f;
    wait_copies<0>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < product_tile; k += 16) {
      std::uint32_t a[4];
      load_rows(a, rows_tile, warp_row, k);
      if constexpr (is_mapped)
        if (matrices.maps_rows) map_fragment(a);
#pragma unroll
      for (int n = 0; n < product_tile / 16; ++n) {
        std::uint32_t b[4];
        is_transposed ? load_columns_transposed(b, matrix_tile, k, n * 16)
                      : load_columns(b, matrix_tile, k, n * 16);
        add_product(sums[2 * n], a, b[0], b[1]);
        add_product(sums[2 * n + 1], a, b[2], b[3]);
      }
      if (divides) {
        const int t = k + lane % 4 * 2;
        const bool is_first = lane / 4 == 0;
        add_product(divisor, a, is_first ? pack_pair(vector[t], vector[t + 1]) : 0,
                    is_first ? pack_pair(vector[t + 8], vector[t + 9]) : 0);
      }
    }
  }
  __syncwarp();  // a warp reads no rows but its own: its results can lie there once all its lanes have read
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    finish_row(in, block, row, half, tile_column, divisor[2 * half], sums);
    if constexpr (is_mapped) scale_row(matrices, in, block, row, half, tile_column, sums);
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n)
      *reinterpret_cast<std::uint32_t*>(rows_tile + row * tile_stride + 8 * n + lane % 4 * 2) =
          pack_pair(sums[n][2 * half], sums[n][2 * half + 1]);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * tile_packs / warp_lanes; ++i) {
    const int pack = i * warp_lanes + lane, row = warp_row + pack / tile_packs, place = pack % tile_packs * 8;
    if (row < block.count && tile_column + place < in.y.width)
      store_pack(row_of(in.y, block.first + row, block.head) + tile_column + place,
                 load_pack<8>(rows_tile + row * tile_stride + place));
  }
}

}  // namespace
}  // namespace tern::kernels
