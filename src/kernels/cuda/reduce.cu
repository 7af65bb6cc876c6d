// Reductions of the middle axis. Deterministic: every thread adds its share in index order, shares are added in
// a fixed tree, and long axes are cut into pieces by size. Memory-bound; a cut axis costs a second launch,
// which adds the pieces.
#include "kernels/cuda/block.cuh"
#include "kernels/reduce.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;
/// Blocks wanted before an axis is left whole, and the fewest elements that a piece of it gives a thread.
constexpr std::int64_t enough_blocks = 256, fewest_loads = 8;

constexpr std::int64_t quotient_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
int power_of_two_up(std::int64_t x, int most) {
  int power = 1;
  while (power < x && power < most) power *= 2;
  return power;
}

/// `pieces` equal pieces of the axis, each summed for itself: y [outer, pieces, inner].
struct Pieces {
  ReduceShape shape;
  std::int64_t pieces, length;  ///< length of a piece; the last may be shorter
  int lanes;                    ///< threads side by side along the contiguous axis
};

/// Rows of length `shape.length` (inner == 1): `lanes` threads (a warp's part or the whole block) take one
/// piece.
template <class In, class Out, int items>
__global__ void __launch_bounds__(threads_per_block) sum_rows_kernel(Pieces cut, const In* x, Out* y) {
  using A = Accumulate<In>;
  __shared__ A shared[threads_per_block / warp_lanes];
  const int rows = threads_per_block / cut.lanes, lane = static_cast<int>(threadIdx.x) % cut.lanes;
  const std::int64_t tasks = cut.shape.outer * cut.pieces;
  for (std::int64_t task = blockIdx.x * std::int64_t{rows}; task < tasks;
       task += gridDim.x * std::int64_t{rows}) {
    const std::int64_t mine = task + threadIdx.x / cut.lanes, o = mine / cut.pieces;
    const std::int64_t first = (mine - o * cut.pieces) * cut.length;
    const std::int64_t last = mine < tasks ? std::min(first + cut.length, cut.shape.length) : first;
    const In* row = x + o * cut.shape.length;
    A total = 0;
#pragma unroll 4
    for (std::int64_t l = first + lane * items; l < last; l += cut.lanes * items) {
      const auto pack = load_pack<items>(row + l);
#pragma unroll
      for (int e = 0; e < items; ++e) total += to_accumulate(pack.item[e]);
    }
    total = cut.lanes <= warp_lanes ? warp_sum(total, cut.lanes) : block_sum(total, shared);
    if (lane == 0 && mine < tasks) y[mine] = from_accumulate<Out>(static_cast<Accumulate<Out>>(total));
  }
}

/// Columns: a block takes `lanes` packs of columns and one piece; its threads take every (threads / lanes)-th
/// row.
template <class In, class Out, int items>
__global__ void __launch_bounds__(threads_per_block) sum_columns_kernel(Pieces cut, const In* x, Out* y) {
  using A = Accumulate<In>;
  __shared__ A shared[threads_per_block * items];
  const int lane = static_cast<int>(threadIdx.x) % cut.lanes, team = static_cast<int>(threadIdx.x) / cut.lanes;
  const int teams = threads_per_block / cut.lanes, width = cut.lanes * items;
  const std::int64_t column_blocks = quotient_up(cut.shape.inner, width);
  const std::int64_t tasks = cut.shape.outer * cut.pieces * column_blocks;
  for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const std::int64_t piece = task / column_blocks, column = (task - piece * column_blocks) * width;
    const std::int64_t o = piece / cut.pieces, first = (piece - o * cut.pieces) * cut.length;
    const std::int64_t last = std::min(first + cut.length, cut.shape.length);
    const In* from = x + o * cut.shape.length * cut.shape.inner + column + lane * items;
    A total[items] = {};
    if (column + lane * items < cut.shape.inner) {
#pragma unroll 4
      for (std::int64_t l = first + team; l < last; l += teams) {
        const auto pack = load_pack<items>(from + l * cut.shape.inner);
#pragma unroll
        for (int e = 0; e < items; ++e) total[e] += to_accumulate(pack.item[e]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < items; ++e) shared[team * width + lane * items + e] = total[e];
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < width && column + c < cut.shape.inner;
         c += threads_per_block) {
      A sum = 0;
      for (int t = 0; t < teams; ++t) sum += shared[t * width + c];
      y[piece * cut.shape.inner + column + c] = from_accumulate<Out>(static_cast<Accumulate<Out>>(sum));
    }
  }
}

/// A thread for each pack of outputs adds the whole axis: for short axes and many outputs.
template <class In, class Out, int items>
__global__ void __launch_bounds__(threads_per_block) sum_short_kernel(ReduceShape shape, const In* x, Out* y) {
  const std::int64_t packs = shape.inner / items;
  for (std::int64_t task = thread_index(); task < shape.outer * packs; task += grid_threads()) {
    const std::int64_t o = task / packs, column = (task - o * packs) * items;
    const In* from = x + o * shape.length * shape.inner + column;
    Accumulate<In> total[items] = {};
#pragma unroll 4
    for (std::int64_t l = 0; l < shape.length; ++l) {
      const auto pack = load_pack<items>(from + l * shape.inner);
#pragma unroll
      for (int e = 0; e < items; ++e) total[e] += to_accumulate(pack.item[e]);
    }
#pragma unroll
    for (int e = 0; e < items; ++e)
      y[o * shape.inner + column + e] = from_accumulate<Out>(static_cast<Accumulate<Out>>(total[e]));
  }
}

/// Pieces such that `blocks` blocks a piece fill the device, each thread of which has fewest_loads to do.
std::int64_t piece_length(std::int64_t length, std::int64_t blocks, std::int64_t elements_at_once) {
  const std::int64_t wanted = std::max<std::int64_t>(1, enough_blocks / blocks);
  const std::int64_t least = elements_at_once * fewest_loads;
  return std::max(least, quotient_up(quotient_up(length, wanted), elements_at_once) * elements_at_once);
}

/// Sums every piece of `cut`.
template <class In, class Out, int items>
void sum_pieces(Cuda& cuda, const Pieces& cut, const In* x, Out* y) {
  const bool is_row_sum = cut.shape.inner == 1;
  const std::int64_t tasks = cut.shape.outer * cut.pieces *
                             (is_row_sum ? 1 : quotient_up(cut.shape.inner, std::int64_t{cut.lanes} * items));
  const std::int64_t blocks = is_row_sum ? quotient_up(tasks, threads_per_block / cut.lanes) : tasks;
  const unsigned grid = grid_for(cuda, blocks, 1, 1 << 20);
  if (is_row_sum)
    sum_rows_kernel<In, Out, items><<<grid, threads_per_block, 0, cuda.stream>>>(cut, x, y);
  else
    sum_columns_kernel<In, Out, items><<<grid, threads_per_block, 0, cuda.stream>>>(cut, x, y);
  check_launch("sum");
}

template <class T, int items>
void sum_packed(Cuda& cuda, ReduceShape shape, const T* x, T* y) {
  using A = Accumulate<T>;
  const std::int64_t outputs = shape.outer * shape.inner;
  if (shape.inner > 1 && (shape.length <= 16 || outputs / items >= enough_blocks * threads_per_block)) {
    sum_short_kernel<T, T, items>
        <<<grid_for(cuda, outputs / items, threads_per_block), threads_per_block, 0, cuda.stream>>>(shape, x,
                                                                                                    y);
    return check_launch("sum");
  }
  Pieces cut{shape, 1, shape.length, 0};
  if (shape.inner == 1) {
    const std::int64_t packs = quotient_up(shape.length, items);
    cut.lanes = packs <= 4 * warp_lanes ? power_of_two_up(packs, warp_lanes) : threads_per_block;
    if (cut.lanes == threads_per_block)
      cut.length = piece_length(shape.length, shape.outer, std::int64_t{threads_per_block} * items);
  } else {
    cut.lanes = power_of_two_up(quotient_up(shape.inner, items), warp_lanes);
    const std::int64_t column_blocks = quotient_up(shape.inner, std::int64_t{cut.lanes} * items);
    cut.length = piece_length(shape.length, shape.outer * column_blocks, threads_per_block / cut.lanes);
  }
  cut.pieces = std::max<std::int64_t>(1, quotient_up(shape.length, std::max<std::int64_t>(cut.length, 1)));
  if (cut.pieces == 1) return sum_pieces<T, T, items>(cuda, cut, x, y);
  const Scratch<A> partial(cuda, shape.outer * cut.pieces * shape.inner);
  sum_pieces<T, A, items>(cuda, cut, x, partial.data());
  Pieces rest{{shape.outer, cut.pieces, shape.inner}, 1, cut.pieces, threads_per_block};
  if (shape.inner > 1) rest.lanes = power_of_two_up(shape.inner, 16);
  sum_pieces<A, T, 1>(cuda, rest, partial.data(), y);
}

/// `lanes` threads of a warp take one output. Starting all of them at the first element keeps the CPU's rule
/// for NaN: it wins in front and loses elsewhere.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    max_kernel(ReduceShape shape, int lanes, const T* x, T* y, std::int64_t* where) {
  const int outputs = threads_per_block / lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const std::int64_t tasks = shape.outer * shape.inner, stride = gridDim.x * std::int64_t{outputs};
  for (std::int64_t task = blockIdx.x * std::int64_t{outputs}; task < tasks; task += stride) {
    const std::int64_t mine = std::min(task + threadIdx.x / lanes, tasks - 1), o = mine / shape.inner;
    const T* column = x + o * shape.length * shape.inner + (mine - o * shape.inner);
    Accumulate<T> best = to_accumulate(column[0]);
    std::int64_t place = 0;
    for (std::int64_t l = lane; l < shape.length; l += lanes) {
      const Accumulate<T> value = to_accumulate(column[l * shape.inner]);
      if (value > best) best = value, place = l;
    }
    for (int step = lanes / 2; step > 0; step /= 2) {
      const Accumulate<T> other = __shfl_xor_sync(0xFFFFFFFFu, best, step);
      const std::int64_t other_place = __shfl_xor_sync(0xFFFFFFFFu, place, step);
      if (other > best || (other == best && other_place < place)) best = other, place = other_place;
    }
    if (lane != 0 || task + threadIdx.x / lanes >= tasks) continue;
    y[mine] = column[place * shape.inner];
    where[mine] = place;
  }
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    max_backward_kernel(ReduceShape shape, const std::int64_t* where, const T* dy, T* dx) {
  const std::int64_t block = shape.length * shape.inner;
  for (std::int64_t i = thread_index(); i < shape.outer * block; i += grid_threads()) {
    const std::int64_t o = i / block, l = (i - o * block) / shape.inner;
    const std::int64_t output = o * shape.inner + (i - o * block) - l * shape.inner;
    dx[i] = where[output] == l ? dy[output] : from_accumulate<T>(0);
  }
}

}  // namespace

template <class T>
void sum(Cuda& cuda, ReduceShape shape, const T* x, T* y) {
  if (shape.outer * shape.inner == 0) return;
  const std::int64_t contiguous = shape.inner == 1 ? shape.length : shape.inner;
  if (contiguous % pack_items<T> == 0 && is_aligned(16, x))
    sum_packed<T, pack_items<T>>(cuda, shape, x, y);
  else
    sum_packed<T, 1>(cuda, shape, x, y);
}

template <class T>
void max(Cuda& cuda, ReduceShape shape, const T* x, T* y, std::int64_t* where) {
  const std::int64_t outputs = shape.outer * shape.inner;
  if (outputs == 0) return;
  // neighbouring threads read neighbouring elements: along the axis where it is contiguous, else across it
  const int lanes = shape.inner == 1 ? power_of_two_up(shape.length, warp_lanes) : 1;
  const unsigned grid = grid_for(cuda, outputs * lanes, threads_per_block);
  max_kernel<T><<<grid, threads_per_block, 0, cuda.stream>>>(shape, lanes, x, y, where);
  check_launch("max");
}

template <class T>
void max_backward(Cuda& cuda, ReduceShape shape, const std::int64_t* where, const T* dy, T* dx) {
  const std::int64_t count = shape.outer * shape.length * shape.inner;
  if (count == 0) return;
  max_backward_kernel<T>
      <<<grid_for(cuda, count, threads_per_block), threads_per_block, 0, cuda.stream>>>(shape, where, dy, dx);
  check_launch("max_backward");
}

#define INSTANTIATE(T)                                                   \
  template void sum<T>(Cuda&, ReduceShape, const T*, T*);                \
  template void max<T>(Cuda&, ReduceShape, const T*, T*, std::int64_t*); \
  template void max_backward<T>(Cuda&, ReduceShape, const std::int64_t*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
