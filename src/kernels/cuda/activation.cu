// Deterministic. A thread takes groups of eight columns, the columns of one Philox block: memory-bound. Sums
// over rows: each thread adds its rows in order, the block its threads, add_partial_sums() the blocks.
#include "kernels/cuda/activation.h"
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/partial_sums.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, group = dropout_columns;

/// Eight neighbouring elements of a row; those beyond `count` read as 0 and are not written.
template <class T>
__device__ __forceinline__ void load_group(const T* from, std::int64_t count, bool is_packed,
                                           Accumulate<T> (&x)[group]) {
  constexpr int items = pack_items<T>;
  if (is_packed) {
#pragma unroll
    for (int p = 0; p < group / items; ++p) {
      const Pack<T, items> pack = load_pack<items>(from + p * items);
#pragma unroll
      for (int i = 0; i < items; ++i) x[p * items + i] = to_accumulate(pack.item[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < group; ++i) x[i] = i < count ? to_accumulate(from[i]) : Accumulate<T>(0);
  }
}
template <class T>
__device__ __forceinline__ void store_group(T* to, std::int64_t count, bool is_packed,
                                            const Accumulate<T> (&x)[group]) {
  constexpr int items = pack_items<T>;
  if (is_packed) {
#pragma unroll
    for (int p = 0; p < group / items; ++p) {
      Pack<T, items> pack;
#pragma unroll
      for (int i = 0; i < items; ++i) pack.item[i] = from_accumulate<T>(x[p * items + i]);
      store_pack(to + p * items, pack);
    }
  } else {
#pragma unroll
    for (int i = 0; i < group; ++i)
      if (i < count) to[i] = from_accumulate<T>(x[i]);
  }
}

template <class T>
__device__ __forceinline__ void activate_group(Activation activation, Accumulate<T> (&x)[group]) {
#pragma unroll
  for (int i = 0; i < group; ++i) {
    if (activation == Activation::relu) x[i] = x[i] <= 0 ? Accumulate<T>(0) : x[i];  // NaN passes
    if (activation == Activation::gelu) x[i] = gelu<T>(x[i]);
  }
}
template <class A>
__device__ __forceinline__ void drop_group(const A (&factor)[group], A (&x)[group]) {
#pragma unroll
  for (int i = 0; i < group; ++i) x[i] = factor[i] == A(0) ? A(0) : factor[i] * x[i];
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    activate_kernel(ActivationForward<T> work, DropoutDraw<Accumulate<T>> draw, bool is_packed) {
  using A = Accumulate<T>;
  const std::int64_t groups = (work.width + group - 1) / group;
  const std::uint32_t step = draw.step();
  for (std::int64_t task = thread_index(); task < work.rows * groups; task += grid_threads()) {
    const std::int64_t r = task / groups, column = (task - r * groups) * group, count = work.width - column;
    const std::int64_t place = r * work.width + column;
    A x[group];
    load_group<T>(work.x + place, count, is_packed, x);
    if (work.bias != nullptr) {
#pragma unroll
      for (int i = 0; i < group; ++i) x[i] += i < count ? work.bias[column + i] : A(0);
    }
    if (work.before != nullptr) store_group<T>(work.before + place, count, is_packed, x);
    activate_group<T>(work.activation, x);
    if (draw.drops()) {
      A factor[group];
      draw.factors(draw.row(r, step), static_cast<std::uint32_t>(column), factor);
      drop_group(factor, x);
    }
    store_group<T>(work.y + place, count, is_packed, x);
  }
}

/// Threads of a block: `lanes` groups of columns by threads_per_block / lanes rows; block (x, y) takes column
/// groups x * lanes .. and rows y, y + gridDim.y, ... in units of the block's rows.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    activation_backward_kernel(ActivationBackward<T> work, DropoutDraw<Accumulate<T>> draw, int lanes,
                               bool is_packed, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  const int lane = static_cast<int>(threadIdx.x) % lanes, slice = static_cast<int>(threadIdx.x) / lanes;
  const int slices = threads_per_block / lanes;
  const std::int64_t column = (std::int64_t{blockIdx.x} * lanes + lane) * group, count = work.width - column;
  const std::uint32_t step = draw.step();
  A total[group] = {};
  const std::int64_t first = std::int64_t{blockIdx.y} * slices + slice,
                     stride = std::int64_t{gridDim.y} * slices;
  for (std::int64_t r = first; r < work.rows && count > 0; r += stride) {
    const std::int64_t place = r * work.width + column;
    A d[group], saved[group] = {}, factor[group];
    load_group<T>(work.dy + place, count, is_packed, d);
    if (work.saved != nullptr) load_group<T>(work.saved + place, count, is_packed, saved);
    if (draw.drops()) {
      draw.factors(draw.row(r, step), static_cast<std::uint32_t>(column), factor);
      drop_group(factor, d);
    }
#pragma unroll
    for (int i = 0; i < group; ++i) {
      if (work.activation == Activation::relu) d[i] = saved[i] <= 0 ? A(0) : d[i];
      if (work.activation == Activation::gelu) d[i] *= gelu_slope<T>(saved[i]);
      total[i] += d[i];
    }
    if (work.dx != nullptr) store_group<T>(work.dx + place, count, is_packed, d);
    if (work.activated != nullptr) {
      activate_group<T>(work.activation, saved);
      if (draw.drops()) drop_group(factor, saved);
      store_group<T>(work.activated + place, count, is_packed, saved);
    }
  }
  if (partial == nullptr) return;
  __shared__ A sums[threads_per_block * group];
#pragma unroll
  for (int i = 0; i < group; ++i) sums[(slice * lanes + lane) * group + i] = total[i];
  __syncthreads();
  const int columns = lanes * group;
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += threads_per_block) {
    const std::int64_t place = std::int64_t{blockIdx.x} * columns + c;
    if (place >= work.width) continue;
    A sum = 0;
    for (int s = 0; s < slices; ++s) sum += sums[s * columns + c];
    partial[blockIdx.y * work.width + place] = sum;
  }
}

template <class A>
DropoutDraw<A> draw_of(const DropoutMask* mask) {
  return mask != nullptr && mask->rate > 0 ? DropoutDraw<A>(*mask) : DropoutDraw<A>();
}

}  // namespace

template <class T>
void activate(Cuda& cuda, const ActivationForward<T>& work) {
  if (work.rows == 0 || work.width == 0) return;
  const bool is_packed = work.width % group == 0 && is_aligned(16, work.x, work.before, work.y);
  const std::int64_t tasks = work.rows * ((work.width + group - 1) / group);
  activate_kernel<T><<<grid_for(cuda, tasks, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      work, draw_of<Accumulate<T>>(work.mask), is_packed);
  check_launch("activate");
}

template <class T>
void activation_backward(Cuda& cuda, const ActivationBackward<T>& work) {
  using A = Accumulate<T>;
  if (work.rows == 0 || work.width == 0) return;
  const bool is_packed =
      work.width % group == 0 && is_aligned(16, work.saved, work.dy, work.dx, work.activated);
  const std::int64_t groups = (work.width + group - 1) / group;
  int lanes = 1;
  while (lanes < warp_lanes && lanes < groups) lanes *= 2;
  const std::int64_t strips = (groups + lanes - 1) / lanes, slices = threads_per_block / lanes;
  const std::int64_t most_parts = std::max<std::int64_t>(1, 8 * cuda.multiprocessors / strips);
  const std::int64_t parts =
      std::min((work.rows + slices - 1) / slices, std::min<std::int64_t>(most_parts, 65535));
  const Scratch<A> partial(cuda, work.dbias != nullptr ? parts * work.width : 0);
  const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(parts));
  activation_backward_kernel<T><<<grid, threads_per_block, 0, cuda.stream>>>(
      work, draw_of<A>(work.mask), lanes, is_packed, work.dbias != nullptr ? partial.data() : nullptr);
  check_launch("activation_backward");
  if (work.dbias != nullptr) add_partial_sums<A>(cuda, partial.data(), parts, work.dbias, work.width);
}

#define INSTANTIATE(T)                                           \
  template void activate<T>(Cuda&, const ActivationForward<T>&); \
  template void activation_backward<T>(Cuda&, const ActivationBackward<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
