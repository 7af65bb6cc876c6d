// Softmax over rows, its cross-entropy, and the score. Deterministic. Memory-bound: a warp takes a row of up to
// 1024 columns, a block a wider one; the maximum and the sum of exponentials come from one pass over the row,
// and a second pass that writes finds the row in a cache.
#include <cmath>
#include <limits>

#include "kernels/cuda/block.cuh"
#include "kernels/softmax.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 512;
constexpr std::int64_t widest_for_warp = 1024;

/// For bfloat16 the fast form, whose relative error of about 2^-22 (|x| + 1) vanishes in the rounding.
template <class T>
__device__ __forceinline__ Accumulate<T> exponential(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return __expf(x);
  else
    return std::exp(x);
}

/// The threads that share a row: a warp or the block.
template <int team, class A>
struct Team {
  A* shared;  ///< a value for each warp of the block
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % team; }
  __device__ static std::int64_t first_row() {
    return (std::int64_t{blockIdx.x} * threads_per_block + threadIdx.x) / team;
  }
  __device__ static std::int64_t rows_at_once() { return std::int64_t{gridDim.x} * (threads_per_block / team); }
  __device__ A sum(A x) const {
    if constexpr (team == warp_lanes) return warp_sum(x);
    return block_sum(x, shared);
  }
  __device__ A max(A x) const {
    x = warp_max(x);
    if constexpr (team == warp_lanes) return x;
    __syncthreads();
    if (threadIdx.x % warp_lanes == 0) shared[threadIdx.x / warp_lanes] = x;
    __syncthreads();
    x = shared[0];
    for (int w = 1; w < threads_per_block / warp_lanes; ++w) x = shared[w] > x ? shared[w] : x;
    return x;
  }
};

/// Calls body(column, integral constant items) for this thread's share of a row: packs, then single columns.
/// Loops that store are not unrolled (`unroll` 1): nvcc 13.0 would split the stores of unrolled packs into
/// their items.
template <int team, class T, int unroll, class Body>
__device__ __forceinline__ void for_columns(std::int64_t width, bool is_packed, const Body& body) {
  constexpr int items = pack_items<T>;
  const int lane = static_cast<int>(threadIdx.x) % team;
  const std::int64_t packed = is_packed ? width / items * items : 0;
#pragma unroll unroll
  for (std::int64_t c = lane * items; c < packed; c += team * items)
    body(c, std::integral_constant<int, items>{});
#pragma unroll unroll
  for (std::int64_t c = packed + lane; c < width; c += team) body(c, std::integral_constant<int, 1>{});
}

/// sum over c of exp(x[c] - largest); infinite entries are left to make the NaN that they make on the CPU.
template <class A>
struct Exponentials {
  A largest, total;
};
template <class T, int team>
__device__ Exponentials<Accumulate<T>> measure_row(const T* x, std::int64_t width, bool is_packed,
                                                   const Team<team, Accumulate<T>>& threads) {
  using A = Accumulate<T>;
  constexpr A lowest = -std::numeric_limits<A>::infinity();
  A largest = lowest, total = 0;
  for_columns<team, T, 2>(width, is_packed, [&](std::int64_t c, auto items) {
    const auto pack = load_pack<items>(x + c);
    A next = largest;
#pragma unroll
    for (int e = 0; e < items; ++e)
      next = to_accumulate(pack.item[e]) > next ? to_accumulate(pack.item[e]) : next;
    const A base = next == lowest ? A(0) : next;
    if (next > largest) total *= exponential<T>(largest - base);
    largest = next;
#pragma unroll
    for (int e = 0; e < items; ++e) total += exponential<T>(to_accumulate(pack.item[e]) - base);
  });
  const A row_largest = threads.max(largest), base = row_largest == lowest ? A(0) : row_largest;
  return {row_largest, threads.sum(total * exponential<T>(largest - base))};
}

template <class T, int team>
__global__ void __launch_bounds__(threads_per_block)
    softmax_forward_kernel(Rows<const T> x, bool is_packed, Rows<T> y) {
  using A = Accumulate<T>;
  __shared__ A shared[warp_lanes];
  const Team<team, A> threads{shared};
  for (std::int64_t r = threads.first_row(); r < x.rows; r += threads.rows_at_once()) {
    const T* from = x.data + r * x.stride;
    T* to = y.data + r * y.stride;
    const Exponentials<A> row = measure_row<T, team>(from, x.width, is_packed, threads);
    const A scale = A(1) / row.total;
    for_columns<team, T, 1>(x.width, is_packed, [&](std::int64_t c, auto items) {
      auto pack = load_pack<items>(from + c);
#pragma unroll
      for (int e = 0; e < items; ++e)
        pack.item[e] = from_accumulate<T>(exponential<T>(to_accumulate(pack.item[e]) - row.largest) * scale);
      store_pack(to + c, pack);
    });
  }
}

template <class T, int team>
__global__ void __launch_bounds__(threads_per_block)
    softmax_backward_kernel(Rows<const T> y, Rows<const T> dy, bool is_packed, Rows<T> dx) {
  using A = Accumulate<T>;
  __shared__ A shared[warp_lanes];
  const Team<team, A> threads{shared};
  for (std::int64_t r = threads.first_row(); r < y.rows; r += threads.rows_at_once()) {
    const T *weights = y.data + r * y.stride, *gradient = dy.data + r * dy.stride;
    A dot = 0;
    for_columns<team, T, 2>(y.width, is_packed, [&](std::int64_t c, auto items) {
      const auto a = load_pack<items>(weights + c), b = load_pack<items>(gradient + c);
#pragma unroll
      for (int e = 0; e < items; ++e) dot += to_accumulate(a.item[e]) * to_accumulate(b.item[e]);
    });
    dot = threads.sum(dot);
    for_columns<team, T, 1>(y.width, is_packed, [&](std::int64_t c, auto items) {
      auto a = load_pack<items>(weights + c);
      const auto b = load_pack<items>(gradient + c);
#pragma unroll
      for (int e = 0; e < items; ++e)
        a.item[e] = from_accumulate<T>(to_accumulate(a.item[e]) * (to_accumulate(b.item[e]) - dot));
      store_pack(dx.data + r * dx.stride + c, a);
    });
  }
}

__device__ __forceinline__ bool is_column(std::int32_t label, std::int64_t width) {
  return label >= 0 && label < width;
}

template <class T, int team>
__global__ void __launch_bounds__(threads_per_block)
    cross_entropy_forward_kernel(Rows<const T> x, bool is_packed, const std::int32_t* label, DeviceFault* fault,
                                 Accumulate<T>* loss) {
  using A = Accumulate<T>;
  __shared__ A shared[warp_lanes];
  const Team<team, A> threads{shared};
  for (std::int64_t r = threads.first_row(); r < x.rows; r += threads.rows_at_once()) {
    const T* from = x.data + r * x.stride;
    const Exponentials<A> row = measure_row<T, team>(from, x.width, is_packed, threads);
    if (threads.lane() != 0) continue;
    const std::int32_t expected = label[r];
    const bool is_known = is_column(expected, x.width);
    if (!is_known) report_fault(fault, FaultSite::cross_entropy, r, expected, x.width);
    loss[r] = std::log(row.total) + row.largest - to_accumulate(from[is_known ? expected : 0]);
  }
}

template <class T, int team>
__global__ void __launch_bounds__(threads_per_block)
    cross_entropy_backward_kernel(Rows<const T> x, bool is_packed, const std::int32_t* label,
                                  const Accumulate<T>* dloss, Rows<T> dx) {
  using A = Accumulate<T>;
  __shared__ A shared[warp_lanes];
  const Team<team, A> threads{shared};
  for (std::int64_t r = threads.first_row(); r < x.rows; r += threads.rows_at_once()) {
    const T* from = x.data + r * x.stride;
    const Exponentials<A> row = measure_row<T, team>(from, x.width, is_packed, threads);
    const A gradient = dloss[r], scale = gradient / row.total;
    const std::int64_t expected = is_column(label[r], x.width) ? label[r] : 0;
    for_columns<team, T, 1>(x.width, is_packed, [&](std::int64_t c, auto items) {
      auto pack = load_pack<items>(from + c);
#pragma unroll
      for (int e = 0; e < items; ++e) {
        const A weighted = exponential<T>(to_accumulate(pack.item[e]) - row.largest) * scale;
        pack.item[e] = from_accumulate<T>(c + e == expected ? weighted - gradient : weighted);
      }
      store_pack(dx.data + r * dx.stride + c, pack);
    });
  }
}

/// The place of the first largest entry; starting at entry 0 gives NaN the rule of std::max_element.
template <class T, int team>
__device__ std::int64_t first_largest(const T* x, std::int64_t width, bool is_packed, Accumulate<T>* shared,
                                      std::int64_t* shared_place) {
  using A = Accumulate<T>;
  A best = to_accumulate(x[0]);
  std::int64_t place = 0;
  for_columns<team, T, 2>(width, is_packed, [&](std::int64_t c, auto items) {
    const auto pack = load_pack<items>(x + c);
#pragma unroll
    for (int e = 0; e < items; ++e)
      if (to_accumulate(pack.item[e]) > best) best = to_accumulate(pack.item[e]), place = c + e;
  });
  const auto take = [&](A value, std::int64_t at) {
    if (value > best || (value == best && at < place)) best = value, place = at;
  };
  for (int step = warp_lanes / 2; step > 0; step /= 2) {
    const A value = __shfl_xor_sync(0xFFFFFFFFu, best, step);
    take(value, __shfl_xor_sync(0xFFFFFFFFu, place, step));
  }
  if constexpr (team == warp_lanes) return place;
  __syncthreads();
  if (threadIdx.x % warp_lanes == 0) {
    shared[threadIdx.x / warp_lanes] = best;
    shared_place[threadIdx.x / warp_lanes] = place;
  }
  __syncthreads();
  for (int w = 0; w < threads_per_block / warp_lanes; ++w) take(shared[w], shared_place[w]);
  return place;
}

/// Adds the losses of the rows whose weight is 1, of all where `weight` is null, and their number. For one
/// block.
template <class A>
__device__ void add_total(const A* loss, const A* weight, std::int64_t rows, ScoreTotals* score) {
  __shared__ double shared_sum[warp_lanes];
  double total = 0, count = 0;
  for (std::int64_t r = threadIdx.x; r < rows; r += threads_per_block) {
    if (weight != nullptr && weight[r] == 0) continue;
    total += static_cast<double>(loss[r]);
    count += 1;
  }
  total = block_sum(total, shared_sum);
  count = block_sum(count, shared_sum);
  if (threadIdx.x != 0) return;
  score->loss += total;
  score->examples += count;
}

template <class A>
__global__ void __launch_bounds__(threads_per_block)
    add_losses_kernel(const A* loss, std::int64_t rows, ScoreTotals* score) {
  add_total<A>(loss, nullptr, rows, score);
}

/// Block 0 adds the losses. The blocks' counts of correct rows are whole numbers: adding them is exact in any
/// order.
template <class T, int team>
__global__ void __launch_bounds__(threads_per_block)
    add_score_kernel(Rows<const T> x, bool is_packed, const std::int32_t* label, const Accumulate<T>* loss,
                     const Accumulate<T>* weight, ScoreTotals* score) {
  using A = Accumulate<T>;
  __shared__ A shared[warp_lanes];
  __shared__ std::int64_t shared_place[warp_lanes];
  __shared__ double shared_sum[warp_lanes];
  const Team<team, A> threads{shared};
  double correct = 0;
  for (std::int64_t r = threads.first_row(); r < x.rows; r += threads.rows_at_once()) {
    if (weight != nullptr && weight[r] == 0) continue;  // the whole team skips the row
    const std::int64_t place =
        first_largest<T, team>(x.data + r * x.stride, x.width, is_packed, shared, shared_place);
    if (threads.lane() == 0 && place == label[r]) correct += 1;
  }
  correct = block_sum(correct, shared_sum);
  if (threadIdx.x == 0 && correct > 0) atomicAdd(&score->correct, correct);
  if (blockIdx.x == 0) add_total<A>(loss, weight, x.rows, score);
}

template <class T>
bool is_packed(Rows<T> x) {
  return is_aligned(16, x.data) && (x.rows == 1 || x.stride % pack_items<std::remove_const_t<T>> == 0);
}

/// Calls launch(team size, blocks) for rows of x's shape.
template <class T, class Launch>
void with_team(const Cuda& cuda, Rows<const T> x, const char* name, const Launch& launch) {
  if (x.rows == 0 || x.width == 0) return;
  if (x.width <= widest_for_warp)
    launch(std::integral_constant<int, warp_lanes>{},
           grid_for(cuda, x.rows, threads_per_block / warp_lanes, 4));
  else
    launch(std::integral_constant<int, threads_per_block>{}, grid_for(cuda, x.rows, 1, 4));
  check_launch(name);
}

}  // namespace

template <class T>
void softmax_forward(Cuda& cuda, Rows<const T> x, Rows<T> y) {
  with_team(cuda, x, "softmax_forward", [&](auto team, unsigned grid) {
    softmax_forward_kernel<T, team>
        <<<grid, threads_per_block, 0, cuda.stream>>>(x, is_packed(x) && is_packed(y), y);
  });
}

template <class T>
void softmax_backward(Cuda& cuda, Rows<const T> y, Rows<const T> dy, Rows<T> dx) {
  with_team(cuda, y, "softmax_backward", [&](auto team, unsigned grid) {
    softmax_backward_kernel<T, team><<<grid, threads_per_block, 0, cuda.stream>>>(
        y, dy, is_packed(y) && is_packed(dy) && is_packed(dx), dx);
  });
}

template <class T>
std::int64_t cross_entropy_forward(Cuda& cuda, Rows<const T> x, const std::int32_t* label,
                                   Accumulate<T>* loss) {
  with_team(cuda, x, "cross_entropy_forward", [&](auto team, unsigned grid) {
    cross_entropy_forward_kernel<T, team>
        <<<grid, threads_per_block, 0, cuda.stream>>>(x, is_packed(x), label, cuda.fault, loss);
  });
  return -1;
}

template <class T>
void cross_entropy_backward(Cuda& cuda, Rows<const T> x, const std::int32_t* label, const Accumulate<T>* dloss,
                            Rows<T> dx) {
  with_team(cuda, x, "cross_entropy_backward", [&](auto team, unsigned grid) {
    cross_entropy_backward_kernel<T, team>
        <<<grid, threads_per_block, 0, cuda.stream>>>(x, is_packed(x) && is_packed(dx), label, dloss, dx);
  });
}

template <class T>
void add_score(Cuda& cuda, Rows<const T> x, const std::int32_t* label, const Accumulate<T>* loss,
               const Accumulate<T>* weight, ScoreTotals* score) {
  with_team(cuda, x, "add_score", [&](auto team, unsigned grid) {
    add_score_kernel<T, team>
        <<<grid, threads_per_block, 0, cuda.stream>>>(x, is_packed(x), label, loss, weight, score);
  });
}

template <class A>
void add_losses(Cuda& cuda, const A* loss, std::int64_t rows, ScoreTotals* score) {
  if (rows == 0) return;
  add_losses_kernel<A><<<1, threads_per_block, 0, cuda.stream>>>(loss, rows, score);
  check_launch("add_losses");
}

#define INSTANTIATE(T)                                                                                       \
  template void softmax_forward<T>(Cuda&, Rows<const T>, Rows<T>);                                           \
  template void softmax_backward<T>(Cuda&, Rows<const T>, Rows<const T>, Rows<T>);                           \
  template std::int64_t cross_entropy_forward<T>(Cuda&, Rows<const T>, const std::int32_t*, Accumulate<T>*); \
  template void cross_entropy_backward<T>(Cuda&, Rows<const T>, const std::int32_t*, const Accumulate<T>*,   \
                                          Rows<T>);                                                          \
  template void add_score<T>(Cuda&, Rows<const T>, const std::int32_t*, const Accumulate<T>*,                \
                             const Accumulate<T>*, ScoreTotals*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE
template void add_losses<float>(Cuda&, const float*, std::int64_t, ScoreTotals*);
template void add_losses<double>(Cuda&, const double*, std::int64_t, ScoreTotals*);

}  // namespace tern::kernels
