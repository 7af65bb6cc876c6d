// Gradients of the filters of a convolution over tokens and columns on tensor cores: bfloat16 pictures, float32
// sums, sm_80 and later. Products are dy times x, [16 outputs] x [16 inputs], for each tap and 16 columns; dy
// is moved by one column either way in registers. Deterministic: chunks of tokens are added in order. Cost: one
// read of x for each 16 outputs and of dy for each 16 inputs.
#include "kernels/cuda/grid_conv_tiles.cuh"
#include "kernels/cuda/partial_sums.h"

namespace tern::kernels {
namespace {

constexpr int chunk_tokens = 64;  ///< of a partial sum
/// Distances of rows in shared memory: eight successive ones begin in different banks.
constexpr int x_stride = tile_columns + 8, dy_stride = tile_columns + 24;

/// Copies `packs` packs from `column` on of 16 channels of `tokens` tokens behind the computation.
template <int tokens, int packs, int stride>
__device__ __forceinline__ void copy_channels(const Heads<const bfloat16>& x, std::int64_t first, int channel,
                                              int column, bfloat16* to) {
  for (int i = static_cast<int>(threadIdx.x); i < tokens * channels * packs; i += threads_per_block) {
    const int pack = i % packs * 8, row = i / packs, own = channel + row % channels, place = column + pack;
    const std::int64_t token = first + row / channels;
    const bool is_inside = token >= 0 && token < x.tokens && own < x.heads && place >= 0 && place < x.width;
    copy_ahead<16>(shared_address(to + row * stride + pack), is_inside ? row_of(x, token, own) + place : x.data,
                   is_inside);
  }
}

/// A warp's share of the filters' gradients: [tap][8 inputs][fragment].
struct FilterSums {
  float products[grid_taps][channels / 8][4], totals[4];
};

/// Adds 64 columns of a warp's token. The row of dy at column - 1, column, column + 1 meets the row of x at
/// `column` for the taps of column + 1, column, column - 1.
__device__ __forceinline__ void add_columns(const TokenPlace& place, bool of_relu, const bfloat16* x_tile,
                                            const bfloat16* dy_tile, FilterSums& sums) {
  constexpr std::uint32_t ones = 0x3F803F80;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const bfloat16* const dy_rows = dy_tile + warp * channels * dy_stride + 8;
#pragma unroll
  for (int depth = 0; depth < tile_columns; depth += 16) {
    std::uint32_t a[3][4];  // by the tap's column
    load_matrices(a[1], shared_address(dy_rows + lane % 16 * dy_stride + depth + lane / 16 * 8));
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const auto* const word = reinterpret_cast<const std::uint32_t*>(
          dy_rows + (lane / 4 + k % 2 * 8) * dy_stride + depth + lane % 4 * 2 + k / 2 * 8);
      a[0][k] = a[1][k] >> 16 | word[1] << 16;
      a[2][k] = word[-1] >> 16 | a[1][k] << 16;
    }
    add_product(sums.totals, a[1], ones, ones);
#pragma unroll
    for (int near = 0; near < 3; ++near) {
      if (!place.is_near[near]) continue;
      std::uint32_t b[4];
      load_matrices(
          b, shared_address(x_tile + ((warp + near) * channels + lane % 8 + lane / 16 * 8) * x_stride + depth +
                            lane / 8 % 2 * 8));
      if (of_relu) {
#pragma unroll
        for (std::uint32_t& pair : b) pair = relu_pair(pair);
      }
#pragma unroll
      for (int tap = 0; tap < 3; ++tap) {
        add_product(sums.products[3 * near + tap][0], a[tap], b[0], b[1]);
        add_product(sums.products[3 * near + tap][1], a[tap], b[2], b[3]);
      }
    }
  }
}

/// Adds the sums of all warps in order and stores those of the filters that there are; `memory` holds 256
/// numbers for each warp.
__device__ __forceinline__ void store_filters(const FilterSums& sums, int outputs, int inputs, float* memory,
                                              float* partial) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_lanes, warp = thread / warp_lanes;
  const int output = static_cast<int>(blockIdx.y) * channels, input = static_cast<int>(blockIdx.z) * channels;
  const auto total = [&](int place, int stride) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < tile_tokens; ++w) sum += memory[w * stride + place];
    return sum;
  };
#pragma unroll
  for (int tap = 0; tap < grid_taps; ++tap) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < channels / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        memory[warp * threads_per_block + (lane / 4 + i / 2 * 8) * channels + 8 * n + lane % 4 * 2 + i % 2] =
            sums.products[tap][n][i];
    __syncthreads();
    const int o = output + thread / channels, i = input + thread % channels;
    if (o < outputs && i < inputs)
      partial[(std::int64_t{o} * inputs + i) * grid_taps + tap] = total(thread, threads_per_block);
  }
  __syncthreads();
  if (lane % 4 == 0) {
    memory[warp * channels + lane / 4] = sums.totals[0];
    memory[warp * channels + lane / 4 + 8] = sums.totals[2];
  }
  __syncthreads();
  if (input == 0 && thread < channels && output + thread < outputs)
    partial[std::int64_t{outputs} * inputs * grid_taps + output + thread] = total(thread, channels);
}
static_assert(threads_per_block == channels * channels);

/// Block (x, y, z): chunk of tokens, 16 outputs, 16 inputs.
__global__ void __launch_bounds__(threads_per_block, 2)
    sum_filters(Sequences sequences, Heads<const bfloat16> x, bool of_relu, Heads<const bfloat16> dy,
                float* partial) {
  __shared__ __align__(128) bfloat16 x_tile[place_rows * channels * x_stride];
  __shared__ __align__(128) bfloat16 dy_tile[tile_tokens * channels * dy_stride];
  static_assert(sizeof x_tile >= tile_tokens * threads_per_block * sizeof(float));
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::int64_t begin = std::int64_t{blockIdx.x} * chunk_tokens, end = min(begin + chunk_tokens, x.tokens);
  FilterSums sums{};
#pragma unroll 1
  for (std::int64_t first = begin; first < end; first += tile_tokens) {
    const TokenPlace place = place_of(sequences, first + warp);
#pragma unroll 1
    for (int column = 0; column < x.width; column += tile_columns) {
      __syncthreads();
      copy_channels<place_rows, tile_columns / 8, x_stride>(
          x, first - 1, static_cast<int>(blockIdx.z) * channels, column, x_tile);
      copy_channels<tile_tokens, tile_columns / 8 + 2, dy_stride>(
          dy, first, static_cast<int>(blockIdx.y) * channels, column - 8, dy_tile);
      commit_copies();
      wait_copies<0>();
      __syncthreads();
      if (place.is_used) add_columns(place, of_relu, x_tile, dy_tile, sums);
    }
  }
  const std::int64_t sum_count = std::int64_t{dy.heads} * x.heads * grid_taps + dy.heads;
  store_filters(sums, dy.heads, x.heads, reinterpret_cast<float*>(x_tile), partial + blockIdx.x * sum_count);
}

}  // namespace

void sum_filters_tiled(Cuda& cuda, const Sequences& sequences, const Heads<const bfloat16>& x, bool of_relu,
                       const Heads<const bfloat16>& dy, float* dweight, float* dbias) {
  const std::int64_t weights = std::int64_t{dy.heads} * x.heads * grid_taps;
  const unsigned chunks = pieces(x.tokens, chunk_tokens);
  const Scratch<float> partial(cuda, chunks * (weights + dy.heads));
  const dim3 grid(chunks, pieces(dy.heads, channels), pieces(x.heads, channels));
  sum_filters<<<grid, threads_per_block, 0, cuda.stream>>>(sequences, x, of_relu, dy, partial.data());
  check_launch("grid_conv_backward");
  add_partial_sums(cuda, partial.data(), chunks, dweight, weights, dbias, std::int64_t{dy.heads});
}

}  // namespace tern::kernels
