// Deterministic: a block owns some columns, slice y of its threads adds parts y, y + slices, ..., then the
// slices are added in two steps of fixed order. Few columns take many slices, many take few. Cost: one read of
// the partial sums.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/partial_sums.h"

namespace tern::kernels {
namespace {

template <int lanes, int slices, class A>
__global__ void __launch_bounds__(lanes* slices)
    sum_parts(const A* __restrict__ partial, std::int64_t parts, A* first, std::int64_t first_count, A* second,
              std::int64_t count) {
  constexpr int groups = slices > 16 ? 16 : 1, group_slices = slices / groups;
  __shared__ A sums[slices][lanes];
  const int lane = static_cast<int>(threadIdx.x), slice = static_cast<int>(threadIdx.y);
  const std::int64_t column = std::int64_t{blockIdx.x} * lanes + lane;
  A total = 0;
  if (column < count) {
#pragma unroll 8
    for (std::int64_t p = slice; p < parts; p += slices) total += partial[p * count + column];
  }
  sums[slice][lane] = total;
  __syncthreads();
  if (slice < groups) {
    total = 0;
#pragma unroll
    for (int s = 0; s < group_slices; ++s) total += sums[slice * group_slices + s][lane];
  }
  __syncthreads();
  if (slice < groups) sums[slice][lane] = total;
  __syncthreads();
  if (slice != 0 || column >= count) return;
  total = 0;
#pragma unroll
  for (int g = 0; g < groups; ++g) total += sums[g][lane];
  if (column < first_count)
    first[column] += total;
  else
    second[column - first_count] += total;
}

template <int lanes, int slices, class A>
void launch_sum(Cuda& cuda, const A* partial, std::int64_t parts, A* first, std::int64_t first_count, A* second,
                std::int64_t count) {
  sum_parts<lanes, slices, A>
      <<<static_cast<unsigned>((count + lanes - 1) / lanes), dim3(lanes, slices), 0, cuda.stream>>>(
          partial, parts, first, first_count, second, count);
  check_launch("add_partial_sums");
}

/// Up to so many columns, small blocks of columns are needed to fill the device.
constexpr std::int64_t few_columns = 4096;

}  // namespace

template <class A>
void add_partial_sums(Cuda& cuda, const A* partial, std::int64_t parts, A* first, std::int64_t first_count,
                      A* second, std::int64_t second_count) {
  const std::int64_t count = first_count + second_count;
  if (parts == 0 || count == 0) return;
  if (count <= few_columns)
    launch_sum<8, 128>(cuda, partial, parts, first, first_count, second, count);
  else
    launch_sum<32, 8>(cuda, partial, parts, first, first_count, second, count);
}

template void add_partial_sums<float>(Cuda&, const float*, std::int64_t, float*, std::int64_t, float*,
                                      std::int64_t);
template void add_partial_sums<double>(Cuda&, const double*, std::int64_t, double*, std::int64_t, double*,
                                       std::int64_t);

}  // namespace tern::kernels
