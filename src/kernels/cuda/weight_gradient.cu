// Deterministic. A block owns up to 192 x 64 entries of the gradient (128 x 64 where shared memory holds no
// more) and every parts-th tile of 64 rows; it keeps its sums in registers, and add_partial_sums() adds those
// of all blocks. Reads dy and x once where outputs <= 192 and inputs <= 64: 65,536 rows, 64 -> 192: 33.5 MB.
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/warp_products.cuh"
#include "kernels/cuda/weight_gradient.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, tile_rows = 64, stages = 3, row_padding = 8;
constexpr int input_columns = 64;           ///< of x, a block's
constexpr int output_slices = 4;            ///< warps along the columns of dy; two lie along those of x
constexpr std::uint32_t ones = 0x3F803F80;  ///< a pair of bfloat16 1

/// A block has 64 * m_tiles columns of dy.
template <int m_tiles>
struct GradientTile {
  bfloat16 dy[tile_rows][64 * m_tiles + row_padding];
  bfloat16 x[tile_rows][input_columns + row_padding];
};

/// Columns of a matrix into a tile; zeros beyond its rows and columns, which are multiples of eight.
template <int columns>
__device__ __forceinline__ void copy_columns(Rows<const bfloat16> from, std::int64_t first_row,
                                             std::int64_t first_column,
                                             bfloat16 (&to)[tile_rows][columns + row_padding]) {
  constexpr int packs = columns / 8;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < tile_rows * packs; i += threads_per_block) {
    const int r = i / packs, c = i % packs * 8;
    const bool is_inside = first_row + r < from.rows && first_column + c < from.width;
    copy_ahead<16>(shared_address(&to[r][c]),
                   is_inside ? from.data + (first_row + r) * from.stride + first_column + c : from.data,
                   is_inside);
  }
}

/// Of a warp: 16 * m_tiles outputs by 32 inputs, and its outputs' sums of dy.
template <int m_tiles>
struct GradientSums {
  float weight[m_tiles][4][4];
  float bias[m_tiles][4];
};

template <int m_tiles>
__device__ __forceinline__ void add_tile(GradientTile<m_tiles>& tile, int output, int input,
                                         GradientSums<m_tiles>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::uint32_t dy_row = shared_address(&tile.dy[lane % 8 + lane / 16 * 8][output + lane / 8 % 2 * 8]);
  const std::uint32_t x_row = shared_address(&tile.x[lane % 16][input + lane / 16 * 8]);
#pragma unroll
  for (int k = 0; k < tile_rows; k += 16) {
    std::uint32_t b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      load_matrices_transposed(b[i], x_row + 2 * (k * (input_columns + row_padding) + 16 * i));
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      std::uint32_t a[4];
      load_matrices_transposed(a, dy_row + 2 * (k * (64 * m_tiles + row_padding) + 16 * m));
#pragma unroll
      for (int n = 0; n < 4; ++n)
        add_product(sums.weight[m][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      if (input == 0) add_product(sums.bias[m], a, ones, ones);
    }
  }
}

/// partial [gridDim.x, outputs * inputs + (with_bias ? outputs : 0)].
template <int m_tiles>
__global__ void __launch_bounds__(threads_per_block, 2)
    gradient_kernel(Rows<const bfloat16> x, Rows<const bfloat16> dy, bool with_bias, float* partial) {
  extern __shared__ uint4 memory[];
  auto* const tiles = reinterpret_cast<GradientTile<m_tiles>*>(memory);
  const std::int64_t first_output = std::int64_t{blockIdx.y} * 64 * m_tiles;
  const std::int64_t first_input = std::int64_t{blockIdx.z} * input_columns;
  const std::int64_t count = (x.rows + tile_rows - 1) / tile_rows;
  const auto copy = [&](std::int64_t index, int stage) {
    if (index < count) {
      copy_columns<64 * m_tiles>(dy, index * tile_rows, first_output, tiles[stage].dy);
      copy_columns<input_columns>(x, index * tile_rows, first_input, tiles[stage].x);
    }
    commit_copies();
  };
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int output = warp % output_slices * 16 * m_tiles, input = warp / output_slices * 32;
  GradientSums<m_tiles> sums = {};
#pragma unroll
  for (int s = 0; s + 1 < stages; ++s) copy(std::int64_t{blockIdx.x} + std::int64_t{s} * gridDim.x, s);
  int stage = 0;
  for (std::int64_t index = blockIdx.x; index < count; index += gridDim.x) {
    wait_copies<stages - 2>();
    __syncthreads();  // this tile is here, and the last one's place is free
    copy(index + std::int64_t{stages - 1} * gridDim.x, (stage + stages - 1) % stages);
    add_tile<m_tiles>(tiles[stage], output, input, sums);
    stage = (stage + 1) % stages;
  }
  float* const weight = partial + blockIdx.x * (dy.width * x.width + (with_bias ? dy.width : 0));
#pragma unroll
  for (int m = 0; m < m_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_output + output + 16 * m + 8 * half + lane / 4;
      if (row >= dy.width) continue;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::int64_t column = first_input + input + 8 * n + lane % 4 * 2;
        if (column < x.width)
          *reinterpret_cast<float2*>(weight + row * x.width + column) =
              make_float2(sums.weight[m][n][2 * half], sums.weight[m][n][2 * half + 1]);
      }
      if (with_bias && first_input + input == 0 && lane % 4 == 0)
        weight[dy.width * x.width + row] = sums.bias[m][2 * half];
    }
}

template <int m_tiles>
void launch_gradient(Cuda& cuda, Rows<const bfloat16> x, Rows<const bfloat16> dy, float* dweight, float* dbias,
                     int blocks_per_multiprocessor) {
  constexpr std::size_t bytes = stages * sizeof(GradientTile<m_tiles>);
  const auto kernel = gradient_kernel<m_tiles>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "weight_gradient");
  const std::int64_t strips = (dy.width + 64 * m_tiles - 1) / (64 * m_tiles);
  const std::int64_t columns = (x.width + input_columns - 1) / input_columns;
  const std::int64_t most = std::int64_t{blocks_per_multiprocessor} * cuda.multiprocessors / (strips * columns);
  const std::int64_t parts =
      std::clamp<std::int64_t>((x.rows + tile_rows - 1) / tile_rows, 1, std::max<std::int64_t>(1, most));
  const std::int64_t weights = dy.width * x.width, biases = dbias != nullptr ? dy.width : 0;
  const Scratch<float> partial(cuda, parts * (weights + biases));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(strips), static_cast<unsigned>(columns));
  kernel<<<grid, threads_per_block, bytes, cuda.stream>>>(x, dy, dbias != nullptr, partial.data());
  check_launch("weight_gradient");
  add_partial_sums<float>(cuda, partial.data(), parts, dweight, weights, dbias, biases);
}

}  // namespace

bool has_narrow_weight_gradient(Rows<const bfloat16> x, std::int64_t outputs, const bfloat16* dy) {
  constexpr std::int64_t most_inputs = 128, most_outputs = 192, fewest_rows = 2048;
  return x.rows >= fewest_rows && x.width > 0 && x.width <= most_inputs && outputs <= most_outputs &&
         x.width % 8 == 0 && x.stride % 8 == 0 && outputs % 8 == 0 && is_aligned(16, x.data, dy);
}

void narrow_weight_gradient(Cuda& cuda, Rows<const bfloat16> x, std::int64_t outputs, const bfloat16* dy,
                            float* dweight, float* dbias) {
  const Rows<const bfloat16> d{dy, x.rows, outputs, outputs};
  constexpr std::size_t widest_bytes = stages * sizeof(GradientTile<3>);
  const bool has_room = widest_bytes <= static_cast<std::size_t>(cuda.shared_memory);
  if (outputs <= 64)
    launch_gradient<1>(cuda, x, d, dweight, dbias, 2);
  else if (outputs <= 128 || !has_room)
    launch_gradient<2>(cuda, x, d, dweight, dbias, 2);
  else
    launch_gradient<3>(cuda, x, d, dweight, dbias, 1);  // its partial sums cost more than a second block gains
}

}  // namespace tern::kernels
