// Rows scaled to unit length. Deterministic: sums by shuffles in a fixed pattern. Rows of whole, aligned runs
// of eight columns are read once and kept in registers; others are read twice by a warp.
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/layer_norm.h"

namespace tern::kernels {
namespace {

constexpr double smallest_norm = 1e-12;

/// Row r of a head view is (token, head) = (r / heads, r % heads).
template <class T>
__device__ __forceinline__ const T* head_row(const Heads<const T>& x, std::int64_t r) {
  return x.data + r / x.heads * x.token_stride + r % x.heads * x.head_stride;
}

template <class Lanes, class T>
__global__ void __launch_bounds__(row_threads) unit_forward(Heads<const T> x, T* y, Accumulate<T>* norm) {
  using A = Accumulate<T>;
  const std::int64_t rows = x.tokens * x.heads, own = Lanes::first_row() - Lanes::first_warp_row();
  for (std::int64_t w = Lanes::first_warp_row(); w < rows; w += Lanes::row_step()) {
    const bool is_active = w + own < rows;
    const std::int64_t r = is_active ? w + own : w;
    const T* from = head_row(x, r);
    A row[Lanes::units][lane_columns], square = 0;
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      if (Lanes::column(u) >= x.width) continue;
      load_eight(from + Lanes::column(u), row[u]);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) square += row[u][i] * row[u][i];
    }
    const A length = sqrt(warp_sum(square, Lanes::lanes));
    const A scale = A(1) / (length > A(smallest_norm) ? length : A(smallest_norm));
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      if (Lanes::column(u) >= x.width) continue;
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) row[u][i] *= scale;
      store_eight(y + r * x.width + Lanes::column(u), row[u], is_active);
    }
    if (is_active && Lanes::lane() == 0) norm[r] = length;
  }
}

template <class Lanes, class T>
__global__ void __launch_bounds__(row_threads)
    unit_backward(std::int64_t rows, int width, const T* y, const Accumulate<T>* norm, const T* dy, T* dx) {
  using A = Accumulate<T>;
  const std::int64_t own = Lanes::first_row() - Lanes::first_warp_row();
  for (std::int64_t w = Lanes::first_warp_row(); w < rows; w += Lanes::row_step()) {
    const bool is_active = w + own < rows;
    const std::int64_t r = is_active ? w + own : w;
    A row[Lanes::units][lane_columns], d[Lanes::units][lane_columns], dot = 0;
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      if (Lanes::column(u) >= width) continue;
      load_eight(y + r * width + Lanes::column(u), row[u]);
      load_eight(dy + r * width + Lanes::column(u), d[u]);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) dot += row[u][i] * d[u][i];
    }
    dot = warp_sum(dot, Lanes::lanes);
    const A scale = norm[r] < A(smallest_norm) ? A(0) : A(1) / norm[r];
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      if (Lanes::column(u) >= width) continue;
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) d[u][i] = (d[u][i] - row[u][i] * dot) * scale;
      store_eight(dx + r * width + Lanes::column(u), d[u], is_active);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads) unit_any_forward(Heads<const T> x, T* y, Accumulate<T>* norm) {
  using A = Accumulate<T>;
  const std::int64_t lane = threadIdx.x % warp_lanes;
  for (std::int64_t r = thread_index() / warp_lanes; r < x.tokens * x.heads; r += grid_threads() / warp_lanes) {
    const T* from = head_row(x, r);
    A square = 0;
    for (std::int64_t c = lane; c < x.width; c += warp_lanes)
      square += to_accumulate(from[c]) * to_accumulate(from[c]);
    const A length = sqrt(warp_sum(square));
    const A scale = A(1) / (length > A(smallest_norm) ? length : A(smallest_norm));
    for (std::int64_t c = lane; c < x.width; c += warp_lanes)
      y[r * x.width + c] = from_accumulate<T>(to_accumulate(from[c]) * scale);
    if (lane == 0) norm[r] = length;
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    unit_any_backward(std::int64_t rows, std::int64_t width, const T* y, const Accumulate<T>* norm, const T* dy,
                      T* dx) {
  using A = Accumulate<T>;
  const std::int64_t lane = threadIdx.x % warp_lanes;
  for (std::int64_t r = thread_index() / warp_lanes; r < rows; r += grid_threads() / warp_lanes) {
    const T *row = y + r * width, *d = dy + r * width;
    A dot = 0;
    for (std::int64_t c = lane; c < width; c += warp_lanes) dot += to_accumulate(row[c]) * to_accumulate(d[c]);
    dot = warp_sum(dot);
    const A scale = norm[r] < A(smallest_norm) ? A(0) : A(1) / norm[r];
    for (std::int64_t c = lane; c < width; c += warp_lanes)
      dx[r * width + c] = from_accumulate<T>((to_accumulate(d[c]) - to_accumulate(row[c]) * dot) * scale);
  }
}

unsigned warp_per_row(const Cuda& cuda, std::int64_t rows) {
  return grid_for(cuda, rows, row_threads / warp_lanes);
}

}  // namespace

template <class T>
void unit_rows_forward(Cuda& cuda, Heads<const T> x, T* y, Accumulate<T>* norm) {
  const std::int64_t rows = x.tokens * x.heads;
  if (rows == 0) return;
  const bool is_packed = fits_row_lanes(x.width) && is_aligned(16, x.data, y) &&
                         x.token_stride % pack_items<T> == 0 && x.head_stride % pack_items<T> == 0;
  if (is_packed)
    with_row_lanes(x.width, [&]<class Lanes>(Lanes) {
      const unsigned blocks = grid_for(cuda, rows, Lanes::rows_per_block, 16);
      unit_forward<Lanes, T><<<blocks, row_threads, 0, cuda.stream>>>(x, y, norm);
    });
  else
    unit_any_forward<T><<<warp_per_row(cuda, rows), row_threads, 0, cuda.stream>>>(x, y, norm);
  check_launch("unit_rows_forward");
}

template <class T>
void unit_rows_backward(Cuda& cuda, std::int64_t rows, std::int64_t width, const T* y,
                        const Accumulate<T>* norm, const T* dy, T* dx) {
  if (rows == 0) return;
  if (fits_row_lanes(width) && is_aligned(16, y, dy, dx))
    with_row_lanes(width, [&]<class Lanes>(Lanes) {
      const unsigned blocks = grid_for(cuda, rows, Lanes::rows_per_block, 16);
      unit_backward<Lanes, T>
          <<<blocks, row_threads, 0, cuda.stream>>>(rows, static_cast<int>(width), y, norm, dy, dx);
    });
  else
    unit_any_backward<T>
        <<<warp_per_row(cuda, rows), row_threads, 0, cuda.stream>>>(rows, width, y, norm, dy, dx);
  check_launch("unit_rows_backward");
}

#define INSTANTIATE(T)                                                                                   \
  template void unit_rows_forward<T>(Cuda&, Heads<const T>, T*, Accumulate<T>*);                         \
  template void unit_rows_backward<T>(Cuda&, std::int64_t, std::int64_t, const T*, const Accumulate<T>*, \
                                      const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
