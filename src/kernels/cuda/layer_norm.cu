// Layer norm with the residual sum and dropout before it. Deterministic: rows are summed by shuffles in a fixed
// pattern, parameter gradients by block and then in the order of blocks. A row is read once and kept in
// registers (kernels/cuda/row_lanes.cuh), so that the cost is its bytes; other rows take the loops of
// layer_norm_any.cuh.
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/layer_norm_any.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/layer_norm.h"

namespace tern::kernels {
namespace {

/// Sum over a row of term(unit, i), valid in each of its lanes.
template <class Lanes, class A, class Term>
__device__ __forceinline__ A row_sum(int width, const Term& term) {
  A sum = 0;
#pragma unroll
  for (int u = 0; u < Lanes::units; ++u) {
    if (Lanes::column(u) >= width) continue;
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) sum += term(u, i);
  }
  return warp_sum(sum, Lanes::lanes);
}

/// x += dropout(branch) for row r, rounded to T and written to `total`.
template <class Lanes, class T, class A>
__device__ __forceinline__ void add_branch(const NormForward<T>& a, std::int64_t r, std::uint32_t step,
                                           bool is_active, A (&x)[Lanes::units][lane_columns]) {
  const int width = static_cast<int>(a.x.width);
  const DropoutRow coordinates = a.draw.row(r, step);
#pragma unroll
  for (int u = 0; u < Lanes::units; ++u) {
    const int column = Lanes::column(u);
    if (column >= width) continue;
    A branch[lane_columns], factor[lane_columns];
    load_eight(a.branch + r * width + column, branch);
    a.draw.factors(coordinates, static_cast<std::uint32_t>(column), factor);
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) x[u][i] += drop_out(branch[i], factor[i]);
    store_eight(a.total + r * width + column, x[u], is_active);
  }
}

/// Blocks that share a multiprocessor: as many as the registers of their rows allow.
template <class Lanes, class T>
constexpr int forward_blocks = !std::is_same_v<Accumulate<T>, float> ? 2
                               : Lanes::units == 1                   ? 6
                                                                     : 4;
template <class T>
constexpr int backward_blocks = std::is_same_v<Accumulate<T>, float> ? 3 : 1;

template <class Lanes, class T>
__global__ void __launch_bounds__(row_threads, (forward_blocks<Lanes, T>)) norm_forward(NormForward<T> a) {
  using A = Accumulate<T>;
  const int width = static_cast<int>(a.x.width);
  const std::uint32_t step = a.branch != nullptr ? a.draw.step() : 0;
  const std::int64_t own = Lanes::first_row() - Lanes::first_warp_row();
  for (std::int64_t w = Lanes::first_warp_row(); w < a.x.rows; w += Lanes::row_step()) {
    const bool is_active = w + own < a.x.rows;
    const std::int64_t r = is_active ? w + own : w;
    A x[Lanes::units][lane_columns];
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u)
      if (Lanes::column(u) < width) load_eight(a.x.data + r * a.x.stride + Lanes::column(u), x[u]);
    if (a.branch != nullptr) add_branch<Lanes>(a, r, step, is_active, x);
    const A mean = row_sum<Lanes, A>(width, [&](int u, int i) { return x[u][i]; }) / static_cast<A>(width);
    const A square =
        row_sum<Lanes, A>(width, [&](int u, int i) { return (x[u][i] - mean) * (x[u][i] - mean); });
    const A inverse = A(1) / sqrt(square / static_cast<A>(width) + a.epsilon);
#pragma unroll
    for (int u = 0; u < Lanes::units; ++u) {
      const int column = Lanes::column(u);
      if (column >= width) continue;
      A weight[lane_columns], bias[lane_columns];
      load_eight(a.weight + column, weight);
      load_eight(a.bias + column, bias);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) x[u][i] = (x[u][i] - mean) * inverse * weight[i] + bias[i];
      store_eight(a.y + r * width + column, x[u], is_active);
    }
    if (is_active && Lanes::lane() == 0) {
      a.mean[r] = mean;
      a.inverse_deviation[r] = inverse;
    }
  }
}

/// Two sums over a row, valid in each of its lanes. `shared` has two values for each warp and parity; rows take
/// turns with the parity, so that one barrier is enough.
template <class Lanes, class A>
__device__ __forceinline__ void sum_over_row(A& x, A& y, A (&shared)[2][row_threads / warp_lanes][2],
                                             int parity) {
  constexpr int lanes = Lanes::lanes < warp_lanes ? Lanes::lanes : warp_lanes;
  x = warp_sum(x, lanes);
  y = warp_sum(y, lanes);
  if constexpr (Lanes::warps > 1) {
    const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
              team = static_cast<int>(threadIdx.x) / Lanes::lanes;
    if (threadIdx.x % warp_lanes == 0) {
      shared[parity][warp][0] = x;
      shared[parity][warp][1] = y;
    }
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(Lanes::lanes) : "memory");
    x = y = 0;
#pragma unroll
    for (int w = 0; w < Lanes::warps; ++w) {
      x += shared[parity][team * Lanes::warps + w][0];
      y += shared[parity][team * Lanes::warps + w][1];
    }
  }
}

/// Writes the block's sums over its rows, `weight` and `bias` by thread, into one row of `partial`: first the
/// row groups of a warp, then the warps through shared memory.
template <class Lanes, class A>
__device__ __forceinline__ void store_block_sums(A (&weight)[lane_columns], A (&bias)[lane_columns], int width,
                                                 A* partial) {
  constexpr int columns = Lanes::lanes * lane_columns, teams = row_threads / warp_lanes / Lanes::warps;
  __shared__ A sums[teams][2][columns];
  const int team = static_cast<int>(threadIdx.x) / (warp_lanes * Lanes::warps);
#pragma unroll
  for (int i = 0; i < lane_columns; ++i) {
#pragma unroll
    for (int step = Lanes::lanes; step < warp_lanes; step *= 2) {
      weight[i] += __shfl_xor_sync(0xFFFFFFFFu, weight[i], step);
      bias[i] += __shfl_xor_sync(0xFFFFFFFFu, bias[i], step);
    }
    if (Lanes::lanes < warp_lanes && static_cast<int>(threadIdx.x) % warp_lanes >= Lanes::lanes) continue;
    sums[team][0][Lanes::lane() * lane_columns + i] = weight[i];
    sums[team][1][Lanes::lane() * lane_columns + i] = bias[i];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * columns; i += row_threads) {
    A total = 0;
#pragma unroll
    for (int t = 0; t < teams; ++t) total += sums[t][i / columns][i % columns];
    if (i % columns < width)
      partial[(std::int64_t{blockIdx.x} * 2 + i / columns) * width + i % columns] = total;
  }
}

/// With n the normalized row and d = dy * weight: dx = (d - mean(d) - n mean(d n)) / deviation. A lane holds
/// eight columns, as they were read, and its sums of the parameters' gradients.
template <class Lanes, class T>
__global__ void __launch_bounds__(row_threads, backward_blocks<T>)
    norm_backward(NormBackward<T> a, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  __shared__ A shared[2][row_threads / warp_lanes][2];
  const int width = static_cast<int>(a.x.width), column = Lanes::column(0);
  const bool is_inside = column < width;
  const std::uint32_t step = a.dbranch != nullptr ? a.draw.step() : 0;
  const std::int64_t own = Lanes::first_row() - Lanes::first_warp_row();
  A dweight[lane_columns] = {}, dbias[lane_columns] = {}, weight[lane_columns] = {};
  if (is_inside) load_eight(a.weight + column, weight);
  int parity = 0;
  for (std::int64_t w = Lanes::first_warp_row(); w < a.x.rows; w += Lanes::row_step(), parity ^= 1) {
    const bool is_active = w + own < a.x.rows && is_inside;
    const std::int64_t r = w + own < a.x.rows ? w + own : w;
    const A mean = a.mean[r], inverse = a.inverse_deviation[r];
    const DropoutRow coordinates = a.dbranch != nullptr ? a.draw.row(r, step) : DropoutRow{};
    Eight<T> x{}, dy{}, past{};
    if (is_inside) {
      x = load_raw(a.x.data + r * a.x.stride + column);
      dy = load_raw(a.dy + r * width + column);
      if (a.dtotal != nullptr) past = load_raw(a.dtotal + r * width + column);
    }
    A mean_d = 0, mean_dn = 0;
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) {
      const A n = (x[i] - mean) * inverse, d = dy[i] * weight[i];
      dweight[i] += is_active ? dy[i] * n : A(0);
      dbias[i] += is_active ? dy[i] : A(0);
      mean_d += d;
      mean_dn += d * n;
    }
    sum_over_row<Lanes>(mean_d, mean_dn, shared, parity);
    mean_d /= static_cast<A>(width);
    mean_dn /= static_cast<A>(width);
    A dx[lane_columns];
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) {
      const A n = (x[i] - mean) * inverse;
      dx[i] = inverse * (dy[i] * weight[i] - mean_d - n * mean_dn);
      if (a.dtotal != nullptr) dx[i] += past[i];
    }
    store_eight(a.dx + r * width + column, dx, is_active);
    if (a.dbranch == nullptr) continue;
    A factor[lane_columns];
    a.draw.factors(coordinates, static_cast<std::uint32_t>(column), factor);
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) dx[i] = drop_out(dx[i], factor[i]);
    store_eight(a.dbranch + r * width + column, dx, is_active);
  }
  store_block_sums<Lanes>(dweight, dbias, width, partial);
}

template <class T>
bool fits_registers(const Rows<const T>& x) {
  return fits_row_lanes(x.width) && is_aligned(16, x.data) && x.stride % pack_items<T> == 0;
}

}  // namespace

template <class T>
void layer_norm_forward(Cuda& cuda, Rows<const T> x, const T* branch, const DropoutMask& mask, T* total,
                        const Accumulate<T>* weight, const Accumulate<T>* bias, Accumulate<T> epsilon, T* y,
                        NormStatistics<Accumulate<T>> statistics) {
  if (x.rows == 0) return;
  using A = Accumulate<T>;
  const NormForward<T> arguments{x, branch,          DropoutDraw<A>(mask),        total, weight, bias, epsilon,
                                 y, statistics.mean, statistics.inverse_deviation};
  if (!fits_registers(x) || !is_aligned(16, branch, total, weight, bias, y))
    return norm_any_forward(cuda, arguments);
  with_row_lanes(x.width, [&]<class Lanes>(Lanes) {
    norm_forward<Lanes, T><<<grid_for(cuda, x.rows, Lanes::rows_per_block, forward_blocks<Lanes, T>),
                             row_threads, 0, cuda.stream>>>(arguments);
  });
  check_launch("layer_norm_forward");
}

template <class T>
void layer_norm_backward(Cuda& cuda, Rows<const T> x, const Accumulate<T>* weight,
                         NormStatistics<const Accumulate<T>> statistics, const T* dy, const T* dtotal, T* dx,
                         const DropoutMask& mask, T* dbranch, Accumulate<T>* dweight, Accumulate<T>* dbias) {
  if (x.rows == 0) return;
  using A = Accumulate<T>;
  const NormBackward<T> arguments{
      x, weight, statistics.mean, statistics.inverse_deviation, dy, dtotal, dx, DropoutDraw<A>(mask), dbranch};
  if (!fits_registers(x) || !is_aligned(16, weight, dy, dtotal, dx, dbranch))
    return norm_any_backward(cuda, arguments, dweight, dbias);
  with_row_teams(x.width, [&]<class Lanes>(Lanes) {
    const unsigned blocks = grid_for(cuda, x.rows, Lanes::rows_per_block, backward_blocks<T>);
    const Scratch<A> partial(cuda, std::int64_t{blocks} * 2 * x.width);
    norm_backward<Lanes, T><<<blocks, row_threads, 0, cuda.stream>>>(arguments, partial.data());
    check_launch("layer_norm_backward");
    add_partial_sums<A>(cuda, partial.data(), blocks, dweight, x.width, dbias, x.width);
  });
}

#define INSTANTIATE(T)                                                                               \
  template void layer_norm_forward<T>(Cuda&, Rows<const T>, const T*, const DropoutMask&, T*,        \
                                      const Accumulate<T>*, const Accumulate<T>*, Accumulate<T>, T*, \
                                      NormStatistics<Accumulate<T>>);                                \
  template void layer_norm_backward<T>(Cuda&, Rows<const T>, const Accumulate<T>*,                   \
                                       NormStatistics<const Accumulate<T>>, const T*, const T*, T*,  \
                                       const DropoutMask&, T*, Accumulate<T>*, Accumulate<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
