// Deterministic. The weight lies in shared memory; each warp takes 16 rows at a time, for which it needs nobody
// else. x is read and y written once, 16 bytes a lane: memory-bound.
#include "kernels/cuda/dealt_rows.cuh"
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/narrow_linear.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, warps_per_block = threads_per_block / warp_lanes, tile_rows = 16;

__device__ __forceinline__ void activate_sums(Activation activation, Deal<1>& sums) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = sums[0][j][i];
      if (activation == Activation::relu) x = x <= 0 ? 0.0f : x;  // NaN passes
      if (activation == Activation::gelu) x = fast_gelu(x);
    }
}

/// `is_depth_first`: the weight is [inputs, outputs].
template <int width, bool is_depth_first, int blocks>
__global__ void __launch_bounds__(threads_per_block, blocks) linear_kernel(NarrowLinear work) {
  extern __shared__ uint4 memory[];
  const int outputs = static_cast<int>(work.outputs);
  const int stride = (is_depth_first ? outputs : width) + matrix_padding;
  auto* const weight = reinterpret_cast<bfloat16*>(memory);
  auto* const bias = reinterpret_cast<float*>(weight + (is_depth_first ? width : outputs) * stride);
  const int thread = static_cast<int>(threadIdx.x) % warp_lanes;
  const LanePlace lane{thread / 4, thread % 4};
  const std::int64_t warps = std::int64_t{warps_per_block} * gridDim.x;
  const std::int64_t own = std::int64_t{threadIdx.x / warp_lanes} * gridDim.x + blockIdx.x;
  Operand<1> in[width / 16];
  load_rows<width, 1>(work.x, own * tile_rows, lane, in);
  copy_dealt(work.weight, is_depth_first ? width : outputs, is_depth_first ? outputs : width, weight);
  copy_bias(work.bias, outputs, bias);
  __syncthreads();
  const std::uint32_t row =
      shared_address(is_depth_first ? weight + thread * stride : weight + thread % 8 * stride + thread / 8 * 8);
  for (std::int64_t first = own * tile_rows; first < work.x.rows; first += warps * tile_rows) {
    Operand<1> next[width / 16];
    load_rows<width, 1>(work.x, first + warps * tile_rows, lane, next);
    for (int column = 0; column < outputs; column += dealt) {
      Deal<1> sums;
      start_sums<1>(bias + column, lane, sums);
#pragma unroll
      for (int d = 0; d < width / dealt; ++d)
        add_deal<1, is_depth_first>(
            in[2 * d], in[2 * d + 1],
            row + 2 * (is_depth_first ? d * dealt * stride + column : column * stride + d * dealt), stride,
            sums);
      if (work.before != nullptr) store_deal<1>(sums, first, work.x.rows, outputs, lane, work.before + column);
      activate_sums(work.activation, sums);
      store_deal<1>(sums, first, work.x.rows, outputs, lane, work.y + column);
    }
#pragma unroll
    for (int k = 0; k < width / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) in[k][0][i] = next[k][0][i];
  }
}

template <int width, bool is_depth_first, int blocks>
void launch_linear(Cuda& cuda, const NarrowLinear& work) {
  const std::int64_t rows = is_depth_first ? width : work.outputs,
                     columns = is_depth_first ? work.outputs : width;
  const std::size_t bytes = static_cast<std::size_t>(rows * (columns + matrix_padding)) * sizeof(bfloat16) +
                            static_cast<std::size_t>(work.outputs) * sizeof(float);
  const auto kernel = linear_kernel<width, is_depth_first, blocks>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "linear");
  constexpr int block_rows = tile_rows * warps_per_block;
  const std::int64_t needed = (work.x.rows + block_rows - 1) / block_rows;
  const std::int64_t most = std::int64_t{blocks} * cuda.multiprocessors;
  kernel<<<static_cast<unsigned>(std::min(needed, most)), threads_per_block, bytes, cuda.stream>>>(work);
  check_launch("linear");
}

template <int width>
void launch(Cuda& cuda, const NarrowLinear& work) {
  if (work.transpose_weight == Transpose::yes)
    launch_linear<width, false, 2>(cuda, work);
  else
    launch_linear<width, true, 2>(cuda, work);
}

}  // namespace

bool has_narrow_linear(const NarrowLinear& work) {
  constexpr std::int64_t widest = 256, fewest_rows = 2048;
  const std::int64_t width = work.x.width;
  // a bare product of more columns is faster in cuBLASLt, which has no bias of float32 for bfloat16
  const bool is_bare = work.bias == nullptr && work.activation == Activation::none;
  const bool is_known = width == 64 || (width == 128 && !is_bare);
  return is_known && work.outputs % dealt == 0 && work.outputs <= widest && work.x.rows >= fewest_rows &&
         work.x.stride % 8 == 0 && is_aligned(16, work.x.data, work.weight, work.before, work.y);
}

void narrow_linear(Cuda& cuda, const NarrowLinear& work) {
  switch (work.x.width) {
    case 64:
      return launch<64>(cuda, work);
    case 128:
      return launch<128>(cuda, work);
  }
  throw_error(ExitCode::internal, "linear: no kernel for {} columns", work.x.width);
}

}  // namespace tern::kernels
