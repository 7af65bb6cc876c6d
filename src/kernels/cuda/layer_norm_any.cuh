// Layer norm of rows of any width, stride and alignment: a warp for each row, element by element, read again
// for each pass. Deterministic.
#pragma once

#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/row_lanes.cuh"

namespace tern::kernels {

/// What the kernels take; members as in kernels/layer_norm.h.
template <class T>
struct NormForward {
  Rows<const T> x;
  const T* branch;
  DropoutDraw<Accumulate<T>> draw;
  T* total;
  const Accumulate<T>*weight, *bias;
  Accumulate<T> epsilon;
  T* y;
  Accumulate<T>*mean, *inverse_deviation;
};
template <class T>
struct NormBackward {
  Rows<const T> x;
  const Accumulate<T>*weight, *mean, *inverse_deviation;
  const T *dy, *dtotal;
  T* dx;
  DropoutDraw<Accumulate<T>> draw;
  T* dbranch;
};

namespace {

constexpr int any_threads = 256;

template <class T>
__global__ void __launch_bounds__(any_threads) norm_any_row(NormForward<T> a) {
  using A = Accumulate<T>;
  const std::int64_t width = a.x.width, lane = threadIdx.x % warp_lanes;
  const std::uint32_t step = a.branch != nullptr ? a.draw.step() : 0;
  for (std::int64_t r = thread_index() / warp_lanes; r < a.x.rows; r += grid_threads() / warp_lanes) {
    const T* row = a.x.data + r * a.x.stride;
    if (a.branch != nullptr) {
      const DropoutRow coordinates = a.draw.row(r, step);
      for (std::int64_t c = lane; c < width; c += warp_lanes) {
        const A factor = a.draw.factor(coordinates, static_cast<std::uint32_t>(c));
        const A branch = drop_out(to_accumulate(a.branch[r * width + c]), factor);
        a.total[r * width + c] = from_accumulate<T>(to_accumulate(row[c]) + branch);
      }
      row = a.total + r * width;  // each lane reads again what it wrote
    }
    A sum = 0, square = 0;
    for (std::int64_t c = lane; c < width; c += warp_lanes) sum += to_accumulate(row[c]);
    const A mean = warp_sum(sum) / static_cast<A>(width);
    for (std::int64_t c = lane; c < width; c += warp_lanes) {
      const A d = to_accumulate(row[c]) - mean;
      square += d * d;
    }
    const A inverse = A(1) / sqrt(warp_sum(square) / static_cast<A>(width) + a.epsilon);
    for (std::int64_t c = lane; c < width; c += warp_lanes)
      a.y[r * width + c] =
          from_accumulate<T>((to_accumulate(row[c]) - mean) * inverse * a.weight[c] + a.bias[c]);
    if (lane == 0) {
      a.mean[r] = mean;
      a.inverse_deviation[r] = inverse;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(any_threads) norm_any_row_backward(NormBackward<T> a) {
  using A = Accumulate<T>;
  const std::int64_t width = a.x.width, lane = threadIdx.x % warp_lanes;
  const std::uint32_t step = a.dbranch != nullptr ? a.draw.step() : 0;
  for (std::int64_t r = thread_index() / warp_lanes; r < a.x.rows; r += grid_threads() / warp_lanes) {
    const T *row = a.x.data + r * a.x.stride, *dy = a.dy + r * width;
    const A mean = a.mean[r], inverse = a.inverse_deviation[r];
    A sum_d = 0, sum_dx = 0;
    for (std::int64_t c = lane; c < width; c += warp_lanes) {
      const A d = to_accumulate(dy[c]) * a.weight[c];
      sum_d += d;
      sum_dx += d * (to_accumulate(row[c]) - mean) * inverse;
    }
    const A mean_d = warp_sum(sum_d) / static_cast<A>(width),
            mean_dx = warp_sum(sum_dx) / static_cast<A>(width);
    const DropoutRow coordinates = a.dbranch != nullptr ? a.draw.row(r, step) : DropoutRow{};
    for (std::int64_t c = lane; c < width; c += warp_lanes) {
      const A normalized = (to_accumulate(row[c]) - mean) * inverse;
      A d = inverse * (to_accumulate(dy[c]) * a.weight[c] - mean_d - normalized * mean_dx);
      if (a.dtotal != nullptr) d += to_accumulate(a.dtotal[r * width + c]);
      const T rounded = from_accumulate<T>(d);
      a.dx[r * width + c] = rounded;
      if (a.dbranch == nullptr) continue;
      const A factor = a.draw.factor(coordinates, static_cast<std::uint32_t>(c));
      a.dbranch[r * width + c] = from_accumulate<T>(drop_out(to_accumulate(rounded), factor));
    }
  }
}

/// Block (x, y) sums chunk x of the rows for columns 32 y .. 32 y + 31.
template <class T>
__global__ void __launch_bounds__(any_threads) norm_any_columns(NormBackward<T> a, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  constexpr int slices = any_threads / warp_lanes;
  __shared__ A sums[2][slices][warp_lanes];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            slice = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::int64_t width = a.x.width, c = std::int64_t{blockIdx.y} * warp_lanes + lane;
  const std::int64_t chunk = (a.x.rows + gridDim.x - 1) / gridDim.x, first = blockIdx.x * chunk,
                     end = first + chunk < a.x.rows ? first + chunk : a.x.rows;
  A weight = 0, bias = 0;
  for (std::int64_t r = first + slice; c < width && r < end; r += slices) {
    const A dy = to_accumulate(a.dy[r * width + c]);
    weight += dy * (to_accumulate(a.x.data[r * a.x.stride + c]) - a.mean[r]) * a.inverse_deviation[r];
    bias += dy;
  }
  sums[0][slice][lane] = weight;
  sums[1][slice][lane] = bias;
  __syncthreads();
  if (slice > 1 || c >= width) return;
  A total = 0;
  for (int s = 0; s < slices; ++s) total += sums[slice][s][lane];
  partial[(std::int64_t{blockIdx.x} * 2 + slice) * width + c] = total;
}

template <class T>
void norm_any_forward(Cuda& cuda, const NormForward<T>& arguments) {
  const unsigned blocks = grid_for(cuda, arguments.x.rows, any_threads / warp_lanes);
  norm_any_row<T><<<blocks, any_threads, 0, cuda.stream>>>(arguments);
  check_launch("layer_norm_forward");
}

template <class T>
void norm_any_backward(Cuda& cuda, const NormBackward<T>& arguments, Accumulate<T>* dweight,
                       Accumulate<T>* dbias) {
  const std::int64_t rows = arguments.x.rows, width = arguments.x.width;
  norm_any_row_backward<T>
      <<<grid_for(cuda, rows, any_threads / warp_lanes), any_threads, 0, cuda.stream>>>(arguments);
  check_launch("layer_norm_backward");
  const dim3 blocks(grid_for(cuda, rows, 64, 4), static_cast<unsigned>((width + warp_lanes - 1) / warp_lanes));
  const Scratch<Accumulate<T>> partial(cuda, std::int64_t{blocks.x} * 2 * width);
  norm_any_columns<T><<<blocks, any_threads, 0, cuda.stream>>>(arguments, partial.data());
  check_launch("layer_norm_backward");
  add_partial_sums<Accumulate<T>>(cuda, partial.data(), blocks.x, dweight, width, dbias, width);
}

}  // namespace
}  // namespace tern::kernels
