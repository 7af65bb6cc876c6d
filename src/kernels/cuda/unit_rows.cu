// Rows scaled to unit length. Deterministic: sums by shuffles in a fixed pattern. Rows of whole, aligned runs
// of eight columns are read once and kept in registers; others are read twice by a warp.
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/layer_norm.h"

namespace tern::kernels {
namespace {

/// The (token, head) of row r of a batch, heads neighbouring.
struct HeadRow {
  std::int64_t token;
  int head;
  __device__ __forceinline__ HeadRow(std::int64_t r, int heads)
      : token(r / heads), head(static_cast<int>(r - token * heads)) {}
  template <class T>
  __device__ __forceinline__ T* of(const Heads<T>& x) const {
    return row_of(x, token, head);
  }
};

template <class Lanes, class T>
__global__ void __launch_bounds__(row_threads)
    unit_forward(Heads<const T> x, Heads<T> y, Heads<Accumulate<T>> norm) {
  using A = Accumulate<T>;
  const std::int64_t rows = x.tokens * x.heads, own = Lanes::first_row() - Lanes::first_warp_row();
  for (std::int64_t w = Lanes::first_warp_row(); w < rows; w += Lanes::row_step()) {
    const bool is_active = w + own < rows;
    const HeadRow row_place(is_active ? w + own : w, x.heads);
    const T* from = row_place.of(x);
    T* to = row_place.of(y);
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
      store_eight(to + Lanes::column(u), row[u], is_active);
    }
    if (is_active && Lanes::lane() == 0) *row_place.of(norm) = length;
  }
}

template <class Lanes, class T>
__global__ void __launch_bounds__(row_threads) unit_backward(UnitRows<T> y, Heads<const T> dy, Heads<T> dx) {
  using A = Accumulate<T>;
  const std::int64_t rows = dy.tokens * dy.heads, own = Lanes::first_row() - Lanes::first_warp_row();
  const int width = dy.width;
  for (std::int64_t w = Lanes::first_warp_row(); w < rows; w += Lanes::row_step()) {
    const bool is_active = w + own < rows;
    const HeadRow row_place(is_active ? w + own : w, dy.heads);
    const T *unit = row_place.of(y.rows), *from = row_place.of(dy);
    T* to = row_place.of(dx);
    A row[Lanes::units][lane_columns], d[Lanes::units][lane_columns], dot = 0;
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      if (Lanes::column(u) >= width) continue;
      load_eight(unit + Lanes::column(u), row[u]);
      load_eight(from + Lanes::column(u), d[u]);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) dot += row[u][i] * d[u][i];
    }
    dot = warp_sum(dot, Lanes::lanes);
    const A length = *row_place.of(y.norm), scale = length < A(smallest_norm) ? A(0) : A(1) / length;
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      if (Lanes::column(u) >= width) continue;
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) d[u][i] = (d[u][i] - row[u][i] * dot) * scale;
      store_eight(to + Lanes::column(u), d[u], is_active);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    unit_any_forward(Heads<const T> x, Heads<T> y, Heads<Accumulate<T>> norm) {
  using A = Accumulate<T>;
  const std::int64_t lane = threadIdx.x % warp_lanes;
  for (std::int64_t r = thread_index() / warp_lanes; r < x.tokens * x.heads; r += grid_threads() / warp_lanes) {
    const HeadRow row_place(r, x.heads);
    const T* from = row_place.of(x);
    T* to = row_place.of(y);
    A square = 0;
    for (std::int64_t c = lane; c < x.width; c += warp_lanes)
      square += to_accumulate(from[c]) * to_accumulate(from[c]);
    const A length = sqrt(warp_sum(square));
    const A scale = A(1) / (length > A(smallest_norm) ? length : A(smallest_norm));
    for (std::int64_t c = lane; c < x.width; c += warp_lanes)
      to[c] = from_accumulate<T>(to_accumulate(from[c]) * scale);
    if (lane == 0) *row_place.of(norm) = length;
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    unit_any_backward(UnitRows<T> y, Heads<const T> dy, Heads<T> dx) {
  using A = Accumulate<T>;
  const std::int64_t lane = threadIdx.x % warp_lanes, rows = dy.tokens * dy.heads, width = dy.width;
  for (std::int64_t r = thread_index() / warp_lanes; r < rows; r += grid_threads() / warp_lanes) {
    const HeadRow row_place(r, dy.heads);
    const T *row = row_place.of(y.rows), *d = row_place.of(dy);
    T* to = row_place.of(dx);
    A dot = 0;
    for (std::int64_t c = lane; c < width; c += warp_lanes) dot += to_accumulate(row[c]) * to_accumulate(d[c]);
    dot = warp_sum(dot);
    const A length = *row_place.of(y.norm), scale = length < A(smallest_norm) ? A(0) : A(1) / length;
    for (std::int64_t c = lane; c < width; c += warp_lanes)
      to[c] = from_accumulate<T>((to_accumulate(d[c]) - to_accumulate(row[c]) * dot) * scale);
  }
}

unsigned warp_per_row(const Cuda& cuda, std::int64_t rows) {
  return grid_for(cuda, rows, row_threads / warp_lanes);
}

}  // namespace

template <class T>
void unit_rows_forward(Cuda& cuda, Heads<const T> x, Heads<T> y, Heads<Accumulate<T>> norm) {
  const std::int64_t rows = x.tokens * x.heads;
  if (rows == 0) return;
  if (fits_row_lanes(x.width) && rows_are_packed(x) && rows_are_packed(y))
    with_row_lanes(x.width, [&]<class Lanes>(Lanes) {
      const unsigned blocks = grid_for(cuda, rows, Lanes::rows_per_block, 16);
      unit_forward<Lanes, T><<<blocks, row_threads, 0, cuda.stream>>>(x, y, norm);
    });
  else
    unit_any_forward<T><<<warp_per_row(cuda, rows), row_threads, 0, cuda.stream>>>(x, y, norm);
  check_launch("unit_rows_forward");
}

template <class T>
void unit_rows_backward(Cuda& cuda, const UnitRows<T>& y, Heads<const T> dy, Heads<T> dx) {
  const std::int64_t rows = dy.tokens * dy.heads;
  if (rows == 0) return;
  const bool is_packed = rows_are_packed(y.rows) && rows_are_packed(dy) && rows_are_packed(dx);
  if (fits_row_lanes(dy.width) && is_packed)
    with_row_lanes(dy.width, [&]<class Lanes>(Lanes) {
      const unsigned blocks = grid_for(cuda, rows, Lanes::rows_per_block, 16);
      unit_backward<Lanes, T><<<blocks, row_threads, 0, cuda.stream>>>(y, dy, dx);
    });
  else
    unit_any_backward<T><<<warp_per_row(cuda, rows), row_threads, 0, cuda.stream>>>(y, dy, dx);
  check_launch("unit_rows_backward");
}

#define INSTANTIATE(T)                                                                       \
  template void unit_rows_forward<T>(Cuda&, Heads<const T>, Heads<T>, Heads<Accumulate<T>>); \
  template void unit_rows_backward<T>(Cuda&, const UnitRows<T>&, Heads<const T>, Heads<T>);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
