// Deterministic. A block goes through tiles of 64 rows. Each warp owns 16 hidden columns: it computes their
// sums before the gelu again, transposed (hidden x rows), and their gradients, keeps its slices of both weights
// in registers as operands and its slices of both weight gradients there as sums; fragments of hidden x rows
// sums are already operands of the products that sum over rows. Only the gradient of the hidden row crosses
// warps, through shared memory, for dx. The sums of blocks are added by a second kernel, in order. 65,536 rows
// of width 64, hidden 128: 5.4 GFLOP, 25 MB.
#include "kernels/cuda/feed_forward_fused.h"
#include "kernels/cuda/feed_forward_tile.cuh"
#include "kernels/cuda/gelu.cuh"

namespace tern::kernels {
namespace {

/// Sums and operands that a warp keeps: 16 hidden columns by `width`. The factor of kept entries is left to the
/// end.
template <int width>
struct WarpState {
  std::uint32_t up[width / 16][4], down[width / 16][4];  ///< hidden x width operands
  float up_bias[2];                                      ///< of hidden columns g and g + 8
  float up_sum[width / 8][4], down_sum[width / 8][4];    ///< hidden x width
  float up_bias_sum[4];                                  ///< hidden x 8 equal columns
  float down_bias_sum[2];                                ///< of columns 2 p, 2 p + 1, p = thread % (width / 2)
};

template <int width, int hidden>
__device__ __forceinline__ void load_weights(const FeedForwardWeights<bfloat16>& weights, int first,
                                             WarpState<width>& state) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < width / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + g + i % 2 * 8, column = 16 * k + 2 * t + i / 2 * 8;
      state.up[k][i] = *reinterpret_cast<const std::uint32_t*>(weights.up + row * width + column);
      state.down[k][i] = std::uint32_t{weights.down[column * hidden + row].bits} |
                         std::uint32_t{weights.down[(column + 1) * hidden + row].bits} << 16;
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    state.up_bias[i] = weights.up_bias != nullptr ? weights.up_bias[first + g + 8 * i] : 0.0f;
    state.down_bias_sum[i] = 0;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) state.up_bias_sum[i] = 0;
#pragma unroll
  for (int n = 0; n < width / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) state.up_sum[n][i] = state.down_sum[n][i] = 0;
}

/// sums += the warp's slices of both weights times the chunk's rows, transposed: h of up and x, d of down and
/// dy.
template <int width>
__device__ __forceinline__ void multiply_rows(const WarpState<width>& state, std::uint32_t x_row,
                                              std::uint32_t dy_row, float (&h)[2][4], float (&d)[2][4]) {
  constexpr int stride = width + matrix_padding;
#pragma unroll
  for (int k = 0; k < width / 32; ++k) {
    std::uint32_t x[2][4], dy[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      load_matrices(x[n], x_row + 2 * (8 * n * stride + 32 * k));
      load_matrices(dy[n], dy_row + 2 * (8 * n * stride + 32 * k));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        add_product(h[n], state.up[2 * k + half], x[n][2 * half], x[n][2 * half + 1]);
        add_product(d[n], state.down[2 * k + half], dy[n][2 * half], dy[n][2 * half + 1]);
      }
  }
}

template <int width, int hidden>
__device__ __forceinline__ void add_chunk(int chunk, BackwardMemory<width, hidden>& memory,
                                          TileMemory<width>& tile, WarpState<width>& state) {
  constexpr std::uint32_t ones = 0x3F803F80;  // a pair of bfloat16 1
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int g = lane / 4, t = lane % 4;
  float h[2][4], d[2][4] = {};
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) h[n][i] = state.up_bias[i / 2];
  multiply_rows<width>(state, shared_address(&tile.x[chunk + lane % 8][lane / 8 * 8]),
                       shared_address(&tile.dy[chunk + lane % 8][lane / 8 * 8]), h, d);
  std::uint32_t activated[4], slopes[4];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int row = chunk + 8 * n + 2 * t;  // and the next
    const std::uint32_t kept = *reinterpret_cast<const std::uint32_t*>(&memory.kept[warp][row]) >> g;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t mask = (kept >> 8 * half & 0x00010001u) * 0xFFFFu;
      const GeluAndSlope first = fast_gelu_and_slope(h[n][2 * half]);
      const GeluAndSlope second = fast_gelu_and_slope(h[n][2 * half + 1]);
      activated[2 * n + half] = pack_pair(first.value, second.value) & mask;
      slopes[2 * n + half] = pack_pair(first.slope * d[n][2 * half], second.slope * d[n][2 * half + 1]) & mask;
      *reinterpret_cast<std::uint32_t*>(&memory.gradient[warp * 16 + g + 8 * half][row]) = slopes[2 * n + half];
    }
  }
  add_product(state.up_bias_sum, slopes, ones, ones);
  const int row = chunk + lane % 16, column = lane / 16 * 8;
  const std::uint32_t x_row = shared_address(&tile.x[row][column]),
                      dy_row = shared_address(&tile.dy[row][column]);
#pragma unroll
  for (int n = 0; n < width / 8; n += 2) {
    std::uint32_t dy[4], x[4];
    load_matrices_transposed(dy, dy_row + 2 * 8 * n);
    load_matrices_transposed(x, x_row + 2 * 8 * n);
    add_product(state.down_sum[n], activated, dy[0], dy[1]);
    add_product(state.up_sum[n], slopes, x[0], x[1]);
    add_product(state.down_sum[n + 1], activated, dy[2], dy[3]);
    add_product(state.up_sum[n + 1], slopes, x[2], x[3]);
  }
}

template <int width, int hidden>
__device__ __forceinline__ void write_sums(const WarpState<width>& state, float scale,
                                           float (&down_bias)[2 * hidden][2], float* partial) {
  using Layout = PartialLayout<width, hidden>;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + g + 8 * half;
#pragma unroll
    for (int n = 0; n < width / 8; ++n) {
      const int column = 8 * n + 2 * t;
      *reinterpret_cast<float2*>(partial + row * width + column) =
          make_float2(scale * state.up_sum[n][2 * half], scale * state.up_sum[n][2 * half + 1]);
      partial[Layout::down + column * hidden + row] = scale * state.down_sum[n][2 * half];
      partial[Layout::down + (column + 1) * hidden + row] = scale * state.down_sum[n][2 * half + 1];
    }
    if (t == 0) partial[Layout::up_bias + row] = scale * state.up_bias_sum[2 * half];
  }
  const int thread = static_cast<int>(threadIdx.x);
  down_bias[thread][0] = state.down_bias_sum[0];
  down_bias[thread][1] = state.down_bias_sum[1];
  __syncthreads();
  if (thread >= width) return;
  float sum = 0;
  for (int other = thread / 2; other < 2 * hidden; other += width / 2) sum += down_bias[other][thread % 2];
  partial[Layout::down_bias + thread] = sum;
}

template <int width, int hidden>
__global__ void __launch_bounds__(2 * hidden, 1)
    backward_kernel(Rows<const bfloat16> x, FeedForwardWeights<bfloat16> weights, const DropoutDraw<float> draw,
                    const bfloat16* __restrict__ dy, bfloat16* __restrict__ dx, float* partial) {
  extern __shared__ uint4 bytes[];
  auto& memory = *reinterpret_cast<BackwardMemory<width, hidden>*>(bytes);
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::int64_t tiles = (x.rows + tile_rows - 1) / tile_rows;
  copy_tile<width>(x, dy, draw, std::int64_t{blockIdx.x} * tile_rows, memory.tile[0]);
  commit_copies();
  constexpr int packs = width / 8;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < hidden * packs; i += 2 * hidden)
    store_dealt(memory.up[i / packs], i % packs, __ldg(reinterpret_cast<const uint4*>(weights.up) + i));
  WarpState<width> state;
  load_weights<width, hidden>(weights, warp * 16, state);
  for (int r = static_cast<int>(threadIdx.x) % warp_lanes; r < tile_rows; r += warp_lanes)
    memory.kept[warp][r] = 0xFFFF;
  const std::uint32_t step = draw.step();
  DropoutDraw<float> own_draw = draw;  // reads the coordinates of the tile at hand
  int stage = 0;
  for (std::int64_t i = blockIdx.x; i < tiles; i += gridDim.x, stage ^= 1) {
    wait_copies<0>();
    __syncthreads();  // the tile is here, and the last tile's dx has been computed
    if (i + gridDim.x < tiles)
      copy_tile<width>(x, dy, draw, (i + gridDim.x) * tile_rows, memory.tile[stage ^ 1]);
    commit_copies();
    TileMemory<width>& tile = memory.tile[stage];
    own_draw.sample = tile.sample;
    own_draw.position = tile.position;
    if (draw.drops()) draw_tile(own_draw, step, warp * 16, memory.kept[warp]);
#pragma unroll 1
    for (int chunk = 0; chunk < tile_rows; chunk += chunk_rows)
      add_chunk<width, hidden>(chunk, memory, tile, state);
    __syncthreads();
    write_dx(memory, draw.scale, i * tile_rows, x.rows, dx);
    add_bias_rows<width>(tile, state.down_bias_sum);
  }
  write_sums<width, hidden>(state, draw.scale, memory.down_bias,
                            partial + std::int64_t{blockIdx.x} * PartialLayout<width, hidden>::count);
}

template <int width, int hidden>
void launch_backward(Cuda& cuda, Rows<const bfloat16> x, const FeedForwardWeights<bfloat16>& weights,
                     const DropoutMask& mask, const bfloat16* dy, bfloat16* dx,
                     const FeedForwardGradients<bfloat16>& gradients) {
  constexpr std::size_t bytes = sizeof(BackwardMemory<width, hidden>);
  const auto kernel = backward_kernel<width, hidden>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "feed_forward");
  const std::int64_t tiles = (x.rows + tile_rows - 1) / tile_rows;
  const std::int64_t parts = std::min<std::int64_t>(tiles, cuda.multiprocessors);
  using Layout = PartialLayout<width, hidden>;
  static_assert(Layout::count % warp_lanes == 0);
  const Scratch<float> partial(cuda, parts * Layout::count);
  kernel<<<static_cast<unsigned>(parts), 2 * hidden, bytes, cuda.stream>>>(
      x, weights, mask.rate > 0 ? DropoutDraw<float>(mask) : DropoutDraw<float>(), dy, dx, partial.data());
  check_launch("feed_forward_backward");
  sum_gradients<width, hidden><<<Layout::count / warp_lanes, dim3(warp_lanes, sum_slices), 0, cuda.stream>>>(
      partial.data(), static_cast<int>(parts), gradients);
  check_launch("feed_forward_backward");
}

}  // namespace

void fused_feed_forward_backward(Cuda& cuda, Rows<const bfloat16> x,
                                 const FeedForwardWeights<bfloat16>& weights, const DropoutMask& mask,
                                 const bfloat16* dy, bfloat16* dx,
                                 const FeedForwardGradients<bfloat16>& gradients) {
  if (x.rows == 0) return;
  launch_backward<64, 128>(cuda, x, weights, mask, dy, dx, gradients);
}

}  // namespace tern::kernels
