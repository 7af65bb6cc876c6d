// Positive random features in plain arithmetic, for any type, alignment and width: a warp takes a row, a lane
// every 32nd feature. Deterministic: maxima do not depend on their order. bfloat16 rows in packs go to
// random_features_tiles.cu.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/random_features.cuh"
#include "kernels/cuda/random_features.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, warps_per_block = threads_per_block / warp_lanes, widest = 256;

/// Exponents of one row, in a warp's lanes.
template <class T>
struct RowExponents {
  using A = Accumulate<T>;
  const PositiveFeatures<T>& in;
  const A* x;  ///< in shared memory
  A half;
  __device__ A operator()(int feature) const {
    const T* direction = in.directions + std::int64_t{feature} * in.x.width;
    A dot = 0;
    for (int c = 0; c < in.x.width; ++c) dot += x[c] * to_accumulate(direction[c]);
    return static_cast<A>(in.scale) * dot - half;
  }
  __device__ A largest() const {
    A most = -INFINITY;
    for (int f = static_cast<int>(threadIdx.x) % warp_lanes; f < in.count; f += warp_lanes) {
      const A exponent = (*this)(f);
      most = exponent > most ? exponent : most;
    }
    return warp_max(most);
  }
};

/// Loads a row to `memory` and prepares its exponents.
template <class T>
__device__ RowExponents<T> load_exponents(const PositiveFeatures<T>& in, const FlatRow& row,
                                          Accumulate<T>* memory) {
  using A = Accumulate<T>;
  A square = 0;
  __syncwarp();
  for (int c = static_cast<int>(threadIdx.x) % warp_lanes; c < in.x.width; c += warp_lanes) {
    const A value = to_accumulate(row_of(in.x, row.token, row.head)[c]);
    memory[c] = value;
    square += value * value;
  }
  __syncwarp();
  return {in, memory, static_cast<A>(0.5 * in.scale * in.scale) * warp_sum(square)};
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    raise_tops(Sequences sequences, PositiveFeatures<T> in, std::uint32_t* tops) {
  __shared__ Accumulate<T> memory[warps_per_block][widest];
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::int64_t rows = std::int64_t{sequences.offsets[sequences.count]} * in.x.heads;
  for (std::int64_t r = thread_index() / warp_lanes; r < rows; r += grid_threads() / warp_lanes) {
    const FlatRow row = flat_row(r, in.x.heads);
    const auto most = static_cast<float>(load_exponents(in, row, memory[warp]).largest());
    if (threadIdx.x % warp_lanes == 0)
      atomicMax(tops + top_place(sequences, row, in.x.heads), ordered_bits(most));
  }
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    write_features(Sequences sequences, PositiveFeatures<T> in, const std::uint32_t* tops, T* y) {
  using A = Accumulate<T>;
  __shared__ A memory[warps_per_block][widest];
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t used = std::int64_t{sequences.offsets[sequences.count]} * in.x.heads,
                     rows = in.x.tokens * in.x.heads;
  for (std::int64_t r = thread_index() / warp_lanes; r < rows; r += grid_threads() / warp_lanes) {
    const FlatRow row = flat_row(r, in.x.heads);
    T* const to = y + r * in.count;
    if (r >= used) {
      for (int f = lane; f < in.count; f += warp_lanes) to[f] = from_accumulate<T>(0);
      continue;
    }
    const RowExponents<T> exponent = load_exponents(in, row, memory[warp]);
    const float shift = in.is_key ? from_ordered_bits(tops[top_place(sequences, row, in.x.heads)])
                                  : static_cast<float>(exponent.largest());
    for (int f = lane; f < in.count; f += warp_lanes)
      to[f] = from_accumulate<T>(std::exp(exponent(f) - shift) + static_cast<A>(in.stabilizer));
  }
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    features_backward(PositiveFeatures<T> in, const T* y, const T* dy, T* dx) {
  using A = Accumulate<T>;
  constexpr int most_columns = widest / warp_lanes;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, width = in.x.width;
  const std::int64_t rows = in.x.tokens * in.x.heads;
  for (std::int64_t r = thread_index() / warp_lanes; r < rows; r += grid_threads() / warp_lanes) {
    A sums[most_columns] = {}, total = 0;
    for (int first = 0; first < in.count; first += warp_lanes) {
      const int f = first + lane;
      const A slope = f < in.count ? to_accumulate(dy[r * in.count + f]) *
                                         (to_accumulate(y[r * in.count + f]) - static_cast<A>(in.stabilizer))
                                   : A(0);
      total += slope;
      const int features = in.count - first < warp_lanes ? in.count - first : warp_lanes;
      for (int j = 0; j < features; ++j) {
        const A factor = __shfl_sync(0xFFFFFFFFu, slope, j);
        const T* direction = in.directions + std::int64_t{first + j} * width;
#pragma unroll
        for (int i = 0; i < most_columns; ++i)
          if (const int c = i * warp_lanes + lane; c < width) sums[i] += factor * to_accumulate(direction[c]);
      }
    }
    const A factor = in.is_key ? static_cast<A>(in.scale * in.scale) * warp_sum(total) : A(0);
    const FlatRow row = flat_row(r, in.x.heads);
#pragma unroll
    for (int i = 0; i < most_columns; ++i)
      if (const int c = i * warp_lanes + lane; c < width) {
        // rows outside all sequences may hold anything
        const A own = factor == 0 ? A(0) : factor * to_accumulate(row_of(in.x, row.token, row.head)[c]);
        dx[r * width + c] = from_accumulate<T>(static_cast<A>(in.scale) * sums[i] - own);
      }
  }
}

template <class T>
unsigned blocks_for(const Cuda& cuda, const PositiveFeatures<T>& in) {
  require(in.x.width <= widest, "positive_features: heads must have at most {} columns, got {}", widest,
          in.x.width);
  return grid_for(cuda, in.x.tokens * in.x.heads * warp_lanes, threads_per_block);
}

}  // namespace

template <class T>
void positive_features_forward(Cuda& cuda, const Sequences& sequences, const PositiveFeatures<T>& in, T* y) {
  if (in.x.tokens * in.x.heads * in.count == 0) return;
  const std::int64_t places = in.is_key ? sequences.count * in.x.heads : 0;
  const Scratch<std::uint32_t> tops(cuda, places);
  if (places > 0)
    check_cuda(
        cudaMemsetAsync(tops.data(), 0, static_cast<std::size_t>(places) * sizeof(std::uint32_t), cuda.stream),
        "positive_features");
  const unsigned blocks = blocks_for(cuda, in);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_feature_tiles(in, y)) {
      if (in.is_key) raise_tops_tiled(cuda, sequences, in, tops.data());
      return write_features_tiled(cuda, sequences, in, tops.data(), y);
    }
  }
  if (in.is_key) {
    raise_tops<T><<<blocks, threads_per_block, 0, cuda.stream>>>(sequences, in, tops.data());
    check_launch("positive_features: tops");
  }
  write_features<T><<<blocks, threads_per_block, 0, cuda.stream>>>(sequences, in, tops.data(), y);
  check_launch("positive_features");
}

template <class T>
void positive_features_backward(Cuda& cuda, const PositiveFeatures<T>& in, const T* y, const T* dy, T* dx) {
  if (in.x.tokens * in.x.heads * in.x.width == 0) return;
  const unsigned blocks = blocks_for(cuda, in);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_feature_tiles(in, y) && fits_feature_tiles(in, dy) && fits_feature_tiles(in, dx))
      return positive_features_backward_tiled(cuda, in, y, dy, dx);
  }
  features_backward<T><<<blocks, threads_per_block, 0, cuda.stream>>>(in, y, dy, dx);
  check_launch("positive_features_backward");
}

#define INSTANTIATE(T)                                                                                 \
  template void positive_features_forward<T>(Cuda&, const Sequences&, const PositiveFeatures<T>&, T*); \
  template void positive_features_backward<T>(Cuda&, const PositiveFeatures<T>&, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
