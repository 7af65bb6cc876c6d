// What CUDA kernels share: number conversions, 16-byte accesses, sums over warps and blocks, launch sizes.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_bf16.h>

#include "base/cuda.h"

namespace tern::kernels {

constexpr int warp_lanes = 32;

__device__ __forceinline__ float to_accumulate(float x) { return x; }
__device__ __forceinline__ double to_accumulate(double x) { return x; }
__device__ __forceinline__ float to_accumulate(bfloat16 x) {
  return __uint_as_float(std::uint32_t{x.bits} << 16);
}

template <class T>
__device__ __forceinline__ T from_accumulate(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return bfloat16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  else
    return x;
}

/// `count` neighbouring elements, moved as one access where they fill 16 bytes or less.
template <class T, int count>
struct alignas(sizeof(T) * count) Pack {
  T item[count];
};
template <int count, class T>
__device__ __forceinline__ Pack<T, count> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, count>*>(from);
}
template <int count, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, count>& pack) {
  *reinterpret_cast<Pack<T, count>*>(to) = pack;
}
/// Elements of T in 16 bytes.
template <class T>
constexpr int pack_items = 16 / static_cast<int>(sizeof(T));
/// Whether all pointers are multiples of `bytes`.
template <class... Pointers>
bool is_aligned(std::size_t bytes, Pointers... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % bytes == 0) && ...);
}

template <class A>
__device__ __forceinline__ A warp_sum(A x, int lanes = warp_lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  return x;
}
template <class A>
__device__ __forceinline__ A warp_max(A x, int lanes = warp_lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, x, step);
    x = x > other ? x : other;
  }
  return x;
}
/// Sum over the block in a fixed order, valid in every thread; `shared` holds a value for each warp.
template <class A>
__device__ __forceinline__ A block_sum(A x, A* shared) {
  x = warp_sum(x);
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const int warps = (static_cast<int>(blockDim.x) + warp_lanes - 1) / warp_lanes;
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  A total = 0;
  for (int w = 0; w < warps; ++w) total += shared[w];
  return total;
}

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t grid_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

/// Notes the first index outside [0, bound) for the host.
__device__ inline void report_fault(DeviceFault* fault, FaultSite site, std::int64_t place, std::int64_t value,
                                    std::int64_t bound) {
  if (atomicCAS(&fault->site, 0, static_cast<int>(site)) != 0) return;
  fault->bound = static_cast<int>(bound);
  fault->place = place;
  fault->value = value;
}

/// Blocks of a grid-stride loop over `items`: enough to fill the device, no more than there is work.
inline unsigned grid_for(const Cuda& cuda, std::int64_t items, int block, int blocks_per_multiprocessor = 8) {
  const std::int64_t needed = (items + block - 1) / block;
  return static_cast<unsigned>(std::clamp<std::int64_t>(
      needed, 1, static_cast<std::int64_t>(cuda.multiprocessors) * blocks_per_multiprocessor));
}

}  // namespace tern::kernels
