// What surrounds the products of the fused feed-forward block's backward pass: tiles of rows in shared memory,
// their dropout, dx, and the sums of what blocks leave. Deterministic.
#pragma once

#include "kernels/cuda/dealt_rows.cuh"
#include "kernels/cuda/dropout.cuh"
#include "kernels/feed_forward.h"

namespace tern::kernels {
namespace {

constexpr int tile_rows = 64, chunk_rows = 16;

template <int width>
struct TileMemory {
  bfloat16 x[tile_rows][width + matrix_padding];
  bfloat16 dy[tile_rows][width + matrix_padding];
  std::int64_t sample[tile_rows];
  std::int32_t position[tile_rows];
};
template <int width, int hidden>
struct BackwardMemory {
  TileMemory<width> tile[2];                    ///< one is computed while the other arrives
  bfloat16 up[hidden][width + matrix_padding];  ///< columns dealt
  bfloat16 gradient[hidden][tile_rows + matrix_padding];
  std::uint16_t kept[hidden / 16][tile_rows];  ///< each warp's: bit c tells whether its hidden column c is kept
  float down_bias[2 * hidden][2];              ///< each thread's sums of two columns of dy
};

template <int width>
__device__ __forceinline__ void copy_tile(Rows<const bfloat16> x, const bfloat16* dy,
                                          const DropoutDraw<float>& draw, std::int64_t first,
                                          TileMemory<width>& tile) {
  constexpr int packs = width / 8;
  for (int i = static_cast<int>(threadIdx.x); i < tile_rows * packs; i += static_cast<int>(blockDim.x)) {
    const int r = i / packs, column = i % packs * 8;
    const bool is_inside = first + r < x.rows;
    const std::int64_t row = is_inside ? first + r : 0;
    copy_ahead<16>(shared_address(&tile.x[r][column]), x.data + row * x.stride + column, is_inside);
    copy_ahead<16>(shared_address(&tile.dy[r][column]), dy + row * width + column, is_inside);
  }
  if (draw.drops() && threadIdx.x < tile_rows) {
    const int r = static_cast<int>(threadIdx.x);
    const bool is_inside = first + r < x.rows;
    const std::int64_t row = is_inside ? first + r : 0;
    copy_ahead<8>(shared_address(&tile.sample[r]), draw.sample + row, is_inside);
    copy_ahead<4>(shared_address(&tile.position[r]), draw.position + row, is_inside);
  }
}

/// Draws a tile's dropout of this warp's 16 columns; a lane draws row l / 2, columns 8 (l % 2) .. of each
/// chunk.
__device__ __forceinline__ void draw_tile(const DropoutDraw<float>& draw, std::uint32_t step, int first_column,
                                          std::uint16_t (&kept)[tile_rows]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  std::uint32_t bits[tile_rows / chunk_rows];
#pragma unroll
  for (int c = 0; c < tile_rows / chunk_rows; ++c)
    bits[c] = draw.kept(draw.row(chunk_rows * c + lane / 2, step),
                        static_cast<std::uint32_t>(first_column + lane % 2 * 8))
              << lane % 2 * 8;
#pragma unroll
  for (int c = 0; c < tile_rows / chunk_rows; ++c) {
    bits[c] |= __shfl_xor_sync(0xFFFFFFFFu, bits[c], 1);
    if (lane % 2 == 0) kept[chunk_rows * c + lane / 2] = static_cast<std::uint16_t>(bits[c]);
  }
  __syncwarp();
}

/// A thread's share of the tile's sums of dy over rows.
template <int width>
__device__ __forceinline__ void add_bias_rows(TileMemory<width>& tile, float (&sum)[2]) {
  constexpr int pairs = width / 2;
  const int pair = static_cast<int>(threadIdx.x) % pairs, slices = static_cast<int>(blockDim.x) / pairs;
#pragma unroll 8
  for (int r = static_cast<int>(threadIdx.x) / pairs; r < tile_rows; r += slices) {
    const std::uint32_t both = *reinterpret_cast<const std::uint32_t*>(&tile.dy[r][2 * pair]);
    sum[0] += first_of(both);
    sum[1] += second_of(both);
  }
}

/// scale * dx of the tile: 16 rows by 32 columns a warp.
template <int width, int hidden>
__device__ __forceinline__ void write_dx(BackwardMemory<width, hidden>& memory, float scale, std::int64_t first,
                                         std::int64_t rows, bfloat16* __restrict__ dx) {
  constexpr int warps = hidden / 16, units = tile_rows / 16 * (width / dealt);
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int g = lane / 4, t = lane % 4;
  for (int unit = warp; unit < units; unit += warps) {
    const int row = unit % (tile_rows / 16) * 16, column = unit / (tile_rows / 16) * dealt;
    float sum[4][4] = {};
    const std::uint32_t a_row =
        shared_address(&memory.gradient[lane % 8 + lane / 16 * 8][row + lane / 8 % 2 * 8]);
    const std::uint32_t b_row = shared_address(&memory.up[lane % 16][column + lane / 16 * 8]);
#pragma unroll
    for (int k = 0; k < hidden; k += 16) {
      std::uint32_t a[4], b[2][4];
      load_matrices_transposed(a, a_row + 2 * k * (tile_rows + matrix_padding));
#pragma unroll
      for (int i = 0; i < 2; ++i)
        load_matrices_transposed(b[i], b_row + 2 * (k * (width + matrix_padding) + 16 * i));
#pragma unroll
      for (int j = 0; j < 4; ++j) add_product(sum[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t r = first + row + g + 8 * half;
      const auto scaled = [&](int j) {
        return pack_pair(scale * sum[j][2 * half], scale * sum[j][2 * half + 1]);
      };
      const uint4 columns = {scaled(0), scaled(1), scaled(2), scaled(3)};
      if (r < rows) *(reinterpret_cast<uint4*>(dx + r * width + column) + t) = columns;
    }
  }
}

/// What a block leaves of the gradients, one after another: up, up_bias, down, down_bias.
template <int width, int hidden>
struct PartialLayout {
  static constexpr int up_bias = hidden * width, down = up_bias + hidden, down_bias = down + width * hidden,
                       count = down_bias + width;
};

constexpr int sum_slices = 32;

/// gradients (those that are not null) += the sums of all blocks' parts: slice y of the threads adds parts y, y
/// + sum_slices, ..., then the first slice adds the slices' results in order.
template <int width, int hidden>
__global__ void __launch_bounds__(warp_lanes* sum_slices)
    sum_gradients(const float* __restrict__ partial, int parts, FeedForwardGradients<bfloat16> gradients) {
  using Layout = PartialLayout<width, hidden>;
  __shared__ float sums[sum_slices][warp_lanes];
  const int lane = static_cast<int>(threadIdx.x), slice = static_cast<int>(threadIdx.y);
  const int column = static_cast<int>(blockIdx.x) * warp_lanes + lane;
  float total = 0;
#pragma unroll 5
  for (int p = slice; p < parts; p += sum_slices) total += partial[std::int64_t{p} * Layout::count + column];
  sums[slice][lane] = total;
  __syncthreads();
  if (slice != 0) return;
  total = 0;
#pragma unroll
  for (int s = 0; s < sum_slices; ++s) total += sums[s][lane];
  float* target = gradients.down_bias;
  int begin = Layout::down_bias;
  if (column < Layout::up_bias)
    target = gradients.up, begin = 0;
  else if (column < Layout::down)
    target = gradients.up_bias, begin = Layout::up_bias;
  else if (column < Layout::down_bias)
    target = gradients.down, begin = Layout::down;
  if (target != nullptr) target[column - begin] += total;
}

}  // namespace
}  // namespace tern::kernels
