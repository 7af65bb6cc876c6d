// Deterministic. Both weights lie in shared memory; a warp takes 16 * m_tiles rows at a time through both
// products without meeting other warps. x is read and y written once, 16 bytes a lane. 65,536 rows of width 64,
// hidden 128: 2.1 GFLOP, 17 MB, and 8.4 million gelu values with their dropout, which bound it.
//
// Columns of x, hidden and y are dealt to lanes (dealt_rows.cuh): an accumulator fragment of the first
// product is an operand of the second, and a lane draws whole Philox blocks.
#include "kernels/cuda/dealt_rows.cuh"
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/feed_forward_fused.h"
#include "kernels/cuda/gelu.cuh"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, warps_per_block = threads_per_block / warp_lanes;

/// Bytes of shared memory, in this order.
constexpr std::size_t matrix_bytes(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(rows * (columns + matrix_padding)) * sizeof(bfloat16);
}
constexpr std::size_t shared_bytes(std::int64_t width, std::int64_t hidden) {
  return matrix_bytes(hidden, width) + matrix_bytes(width, hidden) +
         static_cast<std::size_t>(hidden + width) * sizeof(float);
}

/// Coordinates of the draws of a lane's rows.
template <int m_tiles>
using DrawRows = DropoutRow[m_tiles][2];
template <int m_tiles>
__device__ __forceinline__ void load_draws(const DropoutDraw<float>& draw, std::int64_t first,
                                           std::int64_t rows, LanePlace lane, std::uint32_t step,
                                           DrawRows<m_tiles>& to) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t wanted = first + m * 16 + half * 8 + lane.g;
      to[m][half] = draw.row(wanted < rows ? wanted : rows - 1, step);
    }
}

/// gelu(h) with its dropped entries 0, rounded, as the two operands of the second product over this deal. The
/// factor of kept entries is left to the end.
template <int m_tiles>
__device__ __forceinline__ void activate_deal(const DropoutDraw<float>& draw, const DrawRows<m_tiles>& rows,
                                              int column, const Deal<m_tiles>& h, Operand<m_tiles> (&kept)[2]) {
  const std::uint32_t upper = draw.threshold << 16;
#pragma unroll
  for (int m = 0; m < m_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const DropoutRow& row = rows[m][half];
      PhiloxWords words;
      if (draw.drops())
        words = philox(
            {{row.low + static_cast<std::uint32_t>(column) / dropout_columns, row.high, row.sample, row.step}},
            draw.stream.key);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float first = fast_gelu(h[m][j][2 * half]), second = fast_gelu(h[m][j][2 * half + 1]);
        if (draw.drops()) {
          first = words.word[j] << 16 < upper ? 0.0f : first;
          second = words.word[j] < upper ? 0.0f : second;
        }
        kept[j / 2][m][j % 2 * 2 + half] = pack_pair(first, second);
      }
    }
}

/// sums * scale + bias.
template <int m_tiles>
__device__ __forceinline__ void finish_sums(float scale, const float* bias, LanePlace lane,
                                            Deal<m_tiles>& sums) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 pair = *reinterpret_cast<const float2*>(bias + 8 * lane.t + 2 * j);
#pragma unroll
    for (int m = 0; m < m_tiles; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][j][i] = fmaf(sums[m][j][i], scale, i % 2 == 0 ? pair.x : pair.y);
  }
}

template <int width, int hidden, int m_tiles>
__global__ void __launch_bounds__(threads_per_block, 2 / m_tiles)
    forward_kernel(Rows<const bfloat16> x, FeedForwardWeights<bfloat16> weights, DropoutDraw<float> draw,
                   bfloat16* __restrict__ y) {
  extern __shared__ uint4 memory[];
  constexpr int up_stride = width + matrix_padding, down_stride = hidden + matrix_padding;
  constexpr int deals = width / dealt, tile_rows = 16 * m_tiles;
  auto* const up = reinterpret_cast<bfloat16*>(memory);
  bfloat16* const down = up + hidden * up_stride;
  auto* const up_bias = reinterpret_cast<float*>(down + width * down_stride);
  float* const down_bias = up_bias + hidden;
  const int thread = static_cast<int>(threadIdx.x) % warp_lanes;
  const LanePlace lane{thread / 4, thread % 4};
  const std::int64_t stride = std::int64_t{tile_rows * warps_per_block} * gridDim.x;
  std::int64_t first = (std::int64_t{threadIdx.x / warp_lanes} * gridDim.x + blockIdx.x) * tile_rows;
  Operand<m_tiles> in[width / 16];
  load_rows<width, m_tiles>(x, first, lane, in);  // travels with the weights
  copy_dealt<hidden, width>(weights.up, up);
  copy_dealt<width, hidden>(weights.down, down);
  copy_bias(weights.up_bias, hidden, up_bias);
  copy_bias(weights.down_bias, width, down_bias);
  __syncthreads();

  const std::uint32_t up_row = shared_address(up + thread % 8 * up_stride + thread / 8 * 8);
  const std::uint32_t down_row = shared_address(down + thread % 8 * down_stride + thread / 8 * 8);
  const std::uint32_t step = draw.step();
  for (; first < x.rows; first += stride) {
    DrawRows<m_tiles> rows;
    load_draws<m_tiles>(draw, first, x.rows, lane, step, rows);
    Deal<m_tiles> out[deals] = {};
#pragma unroll 1
    for (int column = 0; column < hidden; column += dealt) {
      Deal<m_tiles> h;
      Operand<m_tiles> kept[2];
      start_sums<m_tiles>(up_bias + column, lane, h);
#pragma unroll
      for (int d = 0; d < deals; ++d)
        add_deal<m_tiles>(in[2 * d], in[2 * d + 1], up_row + 2 * (column * up_stride + d * dealt), up_stride,
                          h);
      activate_deal<m_tiles>(draw, rows, column + 8 * lane.t, h, kept);
#pragma unroll
      for (int d = 0; d < deals; ++d)
        add_deal<m_tiles>(kept[0], kept[1], down_row + 2 * (d * dealt * down_stride + column), down_stride,
                          out[d]);
    }
    load_rows<width, m_tiles>(x, first + stride, lane, in);
#pragma unroll
    for (int d = 0; d < deals; ++d) {
      finish_sums<m_tiles>(draw.scale, down_bias + d * dealt, lane, out[d]);
      store_deal<m_tiles>(out[d], first, x.rows, width, lane, y + d * dealt);
    }
  }
}

template <int width, int hidden, int m_tiles>
void launch_forward(Cuda& cuda, Rows<const bfloat16> x, const FeedForwardWeights<bfloat16>& weights,
                    const DropoutMask& mask, bfloat16* y) {
  constexpr std::size_t bytes = shared_bytes(width, hidden);
  const auto kernel = forward_kernel<width, hidden, m_tiles>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "feed_forward");
  constexpr int block_rows = 16 * m_tiles * warps_per_block;
  const std::int64_t needed = (x.rows + block_rows - 1) / block_rows;
  const std::int64_t most = std::int64_t{2 / m_tiles} * cuda.multiprocessors;
  kernel<<<static_cast<unsigned>(std::min(needed, most)), threads_per_block, bytes, cuda.stream>>>(
      x, weights, mask.rate > 0 ? DropoutDraw<float>(mask) : DropoutDraw<float>(), y);
  check_launch("feed_forward");
}

}  // namespace

bool has_fused_feed_forward(const Cuda& cuda, std::int64_t width, std::int64_t hidden) {
  return width == 64 && hidden == 128 && cuda.capability >= 80;
}
bool is_fusable(Rows<const bfloat16> x, const FeedForwardWeights<bfloat16>& weights, const bfloat16* dy,
                const bfloat16* out) {
  return x.stride % 8 == 0 && is_aligned(16, x.data, weights.up, weights.down, dy, out);
}

void fused_feed_forward(Cuda& cuda, Rows<const bfloat16> x, const FeedForwardWeights<bfloat16>& weights,
                        const DropoutMask& mask, bfloat16* y) {
  if (x.rows == 0) return;
  launch_forward<64, 128, 1>(cuda, x, weights, mask, y);
}

}  // namespace tern::kernels
