// Features of the exponential's second-order series. Deterministic. A warp takes a row, a lane every 32nd
// feature (forward) or entry of the row (backward). Cost tokens * heads * features.
#include <cmath>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/feature_maps.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, warps_per_block = threads_per_block / warp_lanes;

template <class A>
struct Factors {
  A first, second, own;
};

/// Shared memory: a row of x and a row of features for each warp, in A.
template <class A>
struct WarpRows {
  A *x, *features;
  __device__ WarpRows(unsigned char* memory, int width, int count) {
    A* const own = reinterpret_cast<A*>(memory) + static_cast<int>(threadIdx.x) / warp_lanes * (width + count);
    x = own;
    features = own + width;
  }
};

/// Features are laid out in shared memory by the pair's first entry and written together.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    write_taylor(Heads<const T> x, int count, Factors<Accumulate<T>> factors, T* y) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char taylor_bytes[];
  const int width = x.width, lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const WarpRows<A> rows(taylor_bytes, width, count);
  for (int f = 1 + width + width * (width + 1) / 2 + lane; f < count; f += warp_lanes) rows.features[f] = 0;
  for (std::int64_t r = thread_index() / warp_lanes; r < x.tokens * x.heads; r += grid_threads() / warp_lanes) {
    const T* from = row_of(x, r / x.heads, static_cast<int>(r % x.heads));
    __syncwarp();
    if (lane == 0) rows.features[0] = 1;
    for (int c = lane; c < width; c += warp_lanes) {
      rows.x[c] = to_accumulate(from[c]);
      rows.features[1 + c] = factors.first * rows.x[c];
    }
    __syncwarp();
    for (int i = 0, start = 1 + width; i < width; start += width - i, ++i)
      for (int j = i + lane; j < width; j += warp_lanes)
        rows.features[start + j - i] = (i == j ? factors.own : factors.second) * rows.x[i] * rows.x[j];
    __syncwarp();
    for (int f = lane; f < count; f += warp_lanes) y[r * count + f] = from_accumulate<T>(rows.features[f]);
  }
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    taylor_backward(Heads<const T> x, int count, Factors<Accumulate<T>> factors, const T* dy, T* dx) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char taylor_bytes[];
  const int width = x.width, lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const WarpRows<A> rows(taylor_bytes, width, count);
  for (std::int64_t r = thread_index() / warp_lanes; r < x.tokens * x.heads; r += grid_threads() / warp_lanes) {
    const T* from = row_of(x, r / x.heads, static_cast<int>(r % x.heads));
    __syncwarp();
    for (int c = lane; c < width; c += warp_lanes) rows.x[c] = to_accumulate(from[c]);
    for (int f = lane; f < count; f += warp_lanes) rows.features[f] = to_accumulate(dy[r * count + f]);
    __syncwarp();
    for (int c = lane; c < width; c += warp_lanes) {
      A sum = 0;
      for (int j = 0; j < width; ++j) {
        const int low = j < c ? j : c, high = j < c ? c : j;
        const int place = 1 + width + low * width - low * (low - 1) / 2 + high - low;
        sum += (j == c ? 2 * factors.own : factors.second) * rows.features[place] * rows.x[j];
      }
      dx[r * width + c] = from_accumulate<T>(factors.first * rows.features[1 + c] + sum);
    }
  }
}

template <class T>
Factors<Accumulate<T>> factors_of(int width) {
  using A = Accumulate<T>;
  const A second = A(1) / std::sqrt(static_cast<A>(width));
  return {std::sqrt(second), second, second / std::sqrt(A(2))};
}

/// Bytes of a block's rows; lets blocks of `kernel` use them.
template <class T, class Kernel>
std::size_t allow_rows(const Cuda& cuda, const Kernel& kernel, int width) {
  const std::size_t bytes =
      sizeof(Accumulate<T>) * warps_per_block * static_cast<std::size_t>(width + taylor_feature_count(width));
  require(bytes <= static_cast<std::size_t>(cuda.shared_memory),
          "taylor_features: rows of {} need more shared memory than a block has; use fewer columns", width);
  check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "taylor_features");
  return bytes;
}

}  // namespace

template <class T>
void taylor_features_forward(Cuda& cuda, Heads<const T> x, T* y) {
  if (x.tokens * x.heads == 0) return;
  const std::size_t bytes = allow_rows<T>(cuda, write_taylor<T>, x.width);
  write_taylor<T><<<grid_for(cuda, x.tokens * x.heads * warp_lanes, threads_per_block), threads_per_block,
                    bytes, cuda.stream>>>(x, taylor_feature_count(x.width), factors_of<T>(x.width), y);
  check_launch("taylor_features_forward");
}

template <class T>
void taylor_features_backward(Cuda& cuda, Heads<const T> x, const T* dy, T* dx) {
  if (x.tokens * x.heads == 0) return;
  const std::size_t bytes = allow_rows<T>(cuda, taylor_backward<T>, x.width);
  taylor_backward<T><<<grid_for(cuda, x.tokens * x.heads * warp_lanes, threads_per_block), threads_per_block,
                       bytes, cuda.stream>>>(x, taylor_feature_count(x.width), factors_of<T>(x.width), dy, dx);
  check_launch("taylor_features_backward");
}

#define INSTANTIATE(T)                                                 \
  template void taylor_features_forward<T>(Cuda&, Heads<const T>, T*); \
  template void taylor_features_backward<T>(Cuda&, Heads<const T>, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
