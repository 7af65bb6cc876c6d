// Orthogonal random directions. Deterministic. A block orthogonalizes one group of rows in double, a warp for
// each row behind the present one; the group lies in shared memory where it fits. Cost directions * width^2.
#include "base/normal.h"
#include "kernels/cuda/block.cuh"
#include "kernels/random_features.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 1024, warps_per_block = threads_per_block / warp_lanes;

/// Calls body(element, normal) for elements `first` .. `last` - 1 of a sample, one thread for each block of
/// draws.
template <class Body>
__device__ void for_each_normal(const RandomStream& stream, std::int64_t sample, std::int64_t first,
                                std::int64_t last, int thread, int threads, const Body& body) {
  for (std::int64_t block = first / 4 + thread; block * 4 < last; block += threads) {
    float drawn[4];
    normals_of(stream.words(sample, static_cast<std::uint64_t>(block)), drawn);
#pragma unroll
    for (int u = 0; u < 4; ++u)
      if (const std::int64_t element = block * 4 + u; element >= first && element < last)
        body(element, drawn[u]);
  }
}

/// Block g: rows g * width .. of `out`. `memory` is null where the group fits into shared memory.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    orthogonalize(RedrawSchedule schedule, Rows<T> out, double* memory) {
  extern __shared__ double group_rows[];
  const int width = static_cast<int>(out.width), lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::int64_t first = std::int64_t{blockIdx.x} * width, rest = out.rows - first;
  const int count = rest < width ? static_cast<int>(rest) : width;
  double* const rows = memory == nullptr ? group_rows : memory + first * width;
  const std::uint32_t epoch = schedule.epoch();
  const RandomStream stream{schedule.stream.key, &epoch};
  for_each_normal(
      stream, 0, first * width, (first + count) * width, static_cast<int>(threadIdx.x), threads_per_block,
      [&](std::int64_t element, float drawn) { rows[element - first * width] = static_cast<double>(drawn); });
  __syncthreads();
  // row i stays unscaled while the rows behind it subtract their part along it
  for (int i = 0; i < count; ++i) {
    const double* own = rows + i * width;
    for (int j = i + 1 + warp; j < count; j += warps_per_block) {
      double* other = rows + j * width;
      double square = 0, dot = 0;
      for (int c = lane; c < width; c += warp_lanes) {
        square += own[c] * own[c];
        dot += own[c] * other[c];
      }
      const double factor = warp_sum(dot) / warp_sum(square);
      for (int c = lane; c < width; c += warp_lanes) other[c] -= factor * own[c];
    }
    __syncthreads();
  }
  for (int i = warp; i < count; i += warps_per_block) {
    double square = 0, length = 0;
    for (int c = lane; c < width; c += warp_lanes) square += rows[i * width + c] * rows[i * width + c];
    for_each_normal(stream, 1, (first + i) * width, (first + i + 1) * width, lane, warp_lanes,
                    [&](std::int64_t, float drawn) { length += static_cast<double>(drawn) * drawn; });
    const double factor = std::sqrt(warp_sum(length) / warp_sum(square));
    for (int c = lane; c < width; c += warp_lanes)
      out.data[(first + i) * out.stride + c] = from_accumulate<T>(static_cast<Accumulate<T>>(
          __bfloat162float(__float2bfloat16_rn(static_cast<float>(rows[i * width + c] * factor)))));
  }
}

}  // namespace

template <class T>
void draw_orthogonal(Cuda& cuda, const RedrawSchedule& schedule, Rows<T> out) {
  if (out.rows == 0 || out.width == 0) return;
  const std::int64_t groups = (out.rows + out.width - 1) / out.width;
  const std::int64_t bytes = out.width * out.width * static_cast<std::int64_t>(sizeof(double));
  const bool fits = bytes <= cuda.shared_memory;
  const Scratch<double> memory(cuda, fits ? 0 : out.rows * out.width);
  const std::size_t shared = fits ? static_cast<std::size_t>(bytes) : 0;
  check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(orthogonalize<T>),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
             "draw_orthogonal");
  orthogonalize<T><<<static_cast<unsigned>(groups), threads_per_block, shared, cuda.stream>>>(
      schedule, out, fits ? nullptr : memory.data());
  check_launch("draw_orthogonal");
}

#define INSTANTIATE(T) template void draw_orthogonal<T>(Cuda&, const RedrawSchedule&, Rows<T>);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
