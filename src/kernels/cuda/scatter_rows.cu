// Transposed lookups: gradients of tables. Deterministic: no atomics, every sum in a fixed order.
//
// - bfloat16, small tables: scatter_one_hot.cuh.
// - float32 and float64, tables of which a column block fits into shared memory: each block of threads adds its
//   tokens into a table of its own, in which a warp owns the rows with id % warps == warp, so that the
//   additions to a row happen in order of tokens; the tables are then added in order. Cost: one read of dy, and
//   the tables.
// - others: sorted_rows.cuh.
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/scatter_one_hot.cuh"
#include "kernels/cuda/sorted_rows.cuh"
#include "kernels/embedding.h"

namespace tern::kernels {
namespace {

constexpr int slab_columns = 64;  ///< of a block's table
constexpr int slab_lanes = slab_columns / lane_columns;
constexpr int slab_warps = 16;
constexpr int slab_rows = warp_lanes / slab_lanes;  ///< rows of dy that a warp takes at a time
constexpr int slab_depth = 4;                       ///< times that, on their way from memory
constexpr int scan_tokens = 256;                    ///< tokens whose ids a warp looks through at a time

/// Fills `list` with this warp's tokens among [first, end), in order, as (id << 16 | token - first); returns
/// how many. `rows` is below 2^16, end - first at most scan_tokens.
__device__ __forceinline__ int list_tokens(const std::int32_t* id, std::int64_t first, std::int64_t end,
                                           unsigned rows, std::uint32_t* list) {
  const unsigned lane = threadIdx.x % warp_lanes, warp = threadIdx.x / warp_lanes;
  int count = 0;
  __syncwarp();
#pragma unroll
  for (int step = 0; step < scan_tokens; step += warp_lanes) {
    const std::int64_t token = first + step + lane;
    const auto value = static_cast<std::uint32_t>(token < end ? id[token] : -1);
    const bool is_own = value < rows && value % slab_warps == warp;
    const unsigned owners = __ballot_sync(0xFFFFFFFFu, is_own);
    if (is_own) list[count + __popc(owners & ((1u << lane) - 1))] = value << 16 | (step + lane);
    count += __popc(owners);
  }
  __syncwarp();
  return count;
}

/// Place of column i of lane `lane` inside a row of the block's table: neighbouring lanes meet neighbouring 16
/// bytes.
template <class A>
__device__ __forceinline__ int slab_place(int lane, int i) {
  constexpr int items = pack_items<A>;
  return i / items * (slab_lanes * items) + lane * items + i % items;
}

/// row[..] += d for one row of the block's table.
template <class A>
__device__ __forceinline__ void add_to_slab(A* row, int lane, const A (&d)[lane_columns]) {
  constexpr int items = pack_items<A>;
#pragma unroll
  for (int first = 0; first < lane_columns; first += items) {
    Pack<A, items> sum = load_pack<items>(row + slab_place<A>(lane, first));
#pragma unroll
    for (int i = 0; i < items; ++i) sum.item[i] += d[first + i];
    store_pack(row + slab_place<A>(lane, first), sum);
  }
}

/// Adds the listed rows of dy, whose first token is `first`, to the table at `sums`. Of the rows that a warp
/// takes together, those with equal ids take turns.
template <class T>
__device__ __forceinline__ void add_listed(const Rows<const T>& dy, const DropoutDraw<Accumulate<T>>& draw,
                                           std::uint32_t step, std::int64_t first, const std::uint32_t* list,
                                           int count, std::int64_t column, Accumulate<T>* sums) {
  using A = Accumulate<T>;
  const int lane = static_cast<int>(threadIdx.x) % slab_lanes,
            group = static_cast<int>(threadIdx.x) % warp_lanes / slab_lanes;
  for (int e = 0; e < count; e += slab_rows * slab_depth) {
    A d[slab_depth][lane_columns];
    std::uint32_t entry[slab_depth];
    DropoutRow coordinates[slab_depth];
#pragma unroll
    for (int k = 0; k < slab_depth; ++k) {
      const int place = e + k * slab_rows + group;
      entry[k] = list[place < count ? place : count - 1];
      const std::int64_t token = first + (entry[k] & 0xFFFFu);
      coordinates[k] = draw.row(token, step);
      load_eight(dy.data + token * dy.stride + column, d[k]);
    }
#pragma unroll
    for (int k = 0; k < slab_depth; ++k) {
      if (e + k * slab_rows >= count) break;
      A factor[lane_columns];
      draw.factors(coordinates[k], static_cast<std::uint32_t>(column), factor);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) d[k][i] = drop_out(d[k][i], factor[i]);
      const bool is_active = e + k * slab_rows + group < count;
      const std::uint32_t id = entry[k] >> 16;
      int turn = 0;
#pragma unroll
      for (int other = 0; other < slab_rows; ++other) {
        const std::uint32_t theirs = __shfl_sync(0xFFFFFFFFu, id, other * slab_lanes);
        turn += other < group && theirs == id;
      }
#pragma unroll
      for (int now = 0; now < slab_rows; ++now) {
        if (!__any_sync(0xFFFFFFFFu, turn >= now)) break;
        if (is_active && turn == now) add_to_slab(sums + id * slab_columns, lane, d[k]);
        __syncwarp();
      }
    }
  }
}

/// Block (x, y) sums chunk x of the tokens for columns 64 y .. 64 y + 63 into partial[x, :, these].
template <class T>
__global__ void __launch_bounds__(slab_warps* warp_lanes)
    slab_sums(Rows<const T> dy, DropoutDraw<Accumulate<T>> draw, const std::int32_t* __restrict__ id,
              unsigned rows, std::int64_t chunk, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char slab_bytes[];
  __shared__ std::uint32_t lists[slab_warps][scan_tokens];
  A* const sums = reinterpret_cast<A*>(slab_bytes);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % slab_lanes;
  const std::int64_t first_column = std::int64_t{blockIdx.y} * slab_columns;
  // lanes beyond the last column add the last eight to places that nobody reads
  const std::int64_t own = first_column + lane * lane_columns,
                     column = own < dy.width ? own : dy.width - lane_columns;
  const std::uint32_t step = draw.step();
  for (unsigned i = threadIdx.x; i < rows * slab_columns; i += blockDim.x) sums[i] = 0;
  __syncthreads();
  std::uint32_t* const list = lists[thread / warp_lanes];
  const std::int64_t start = blockIdx.x * chunk, stop = start + chunk < dy.rows ? start + chunk : dy.rows;
  for (std::int64_t first = start; first < stop; first += scan_tokens) {
    const std::int64_t end = first + scan_tokens < stop ? first + scan_tokens : stop;
    const int count = list_tokens(id, first, end, rows, list);
    add_listed(dy, draw, step, first, list, count, column, sums);
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < rows * slab_columns; i += blockDim.x) {
    const unsigned row = i / slab_columns, c = i % slab_columns;
    if (first_column + c >= dy.width) continue;
    const int place = slab_place<A>(static_cast<int>(c / lane_columns), static_cast<int>(c % lane_columns));
    partial[(std::int64_t{blockIdx.x} * rows + row) * dy.width + first_column + c] =
        sums[row * slab_columns + place];
  }
}

template <class T>
void scatter_slabs(Cuda& cuda, const Rows<const T>& dy, const DropoutDraw<Accumulate<T>>& draw,
                   const std::int32_t* id, std::int64_t rows, Accumulate<T>* table) {
  using A = Accumulate<T>;
  const std::int64_t slices = (dy.width + slab_columns - 1) / slab_columns;
  const std::int64_t most = std::max<std::int64_t>(cuda.multiprocessors / slices, 1);
  const std::int64_t chunks = std::clamp<std::int64_t>((dy.rows + scan_tokens - 1) / scan_tokens, 1, most),
                     chunk = (dy.rows + chunks - 1) / chunks;
  const std::size_t shared = static_cast<std::size_t>(rows) * slab_columns * sizeof(A);
  check_cuda(
      cudaFuncSetAttribute(slab_sums<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
      "scatter_add_rows");
  const Scratch<A> partial(cuda, chunks * rows * dy.width);
  slab_sums<T><<<dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(slices)), slab_warps * warp_lanes,
                 shared, cuda.stream>>>(dy, draw, id, static_cast<unsigned>(rows), chunk, partial.data());
  check_launch("scatter_add_rows");
  add_partial_sums<A>(cuda, partial.data(), chunks, table, rows * dy.width);
}

/// Whether a block's table and the lists fit into shared memory.
template <class T>
bool fits_slab(const Cuda& cuda, std::int64_t rows) {
  const std::int64_t lists = slab_warps * scan_tokens * 4, row_bytes = slab_columns * sizeof(Accumulate<T>);
  return rows < 65536 && rows * row_bytes + lists <= cuda.shared_memory;
}
constexpr int place_slots = row_threads / slab_lanes;

/// The token of sequence s at original position `place`, or -1. Positions rise strictly from 0 or more, so the
/// token's number inside its sequence is at most `place`, and equal to it where nothing is masked.
__device__ __forceinline__ std::int64_t token_at(const Sequences& sequences, std::int64_t s,
                                                 std::int32_t place) {
  const std::int64_t first = sequences.offsets[s], tokens = sequences.offsets[s + 1] - first;
  if (place < tokens && sequences.position[first + place] == place) return first + place;
  std::int64_t low = first, high = first + (tokens < place ? tokens : place);
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (sequences.position[middle] < place)
      low = middle + 1;
    else
      high = middle;
  }
  return low < first + tokens && sequences.position[low] == place ? low : -1;
}

/// Block (x, y) adds the rows at place x for columns 64 y .. 64 y + 63: slot j takes sequences j, j + 32, ...,
/// then the slots are added in order.
template <class T>
__global__ void __launch_bounds__(row_threads)
    sum_places(Sequences sequences, Rows<const T> dy, DropoutDraw<Accumulate<T>> draw, bool is_packed,
               Accumulate<T>* table) {
  using A = Accumulate<T>;
  __shared__ A sums[place_slots][slab_columns + 1];
  const int lane = static_cast<int>(threadIdx.x) % slab_lanes,
            slot = static_cast<int>(threadIdx.x) / slab_lanes;
  const std::int64_t column = std::int64_t{blockIdx.y} * slab_columns + lane * lane_columns;
  const auto place = static_cast<std::int32_t>(blockIdx.x);
  const std::uint32_t step = draw.step();
  A total[lane_columns] = {};
  for (std::int64_t s = slot; s < sequences.count && column < dy.width; s += place_slots) {
    const std::int64_t token = token_at(sequences, s, place);
    if (token < 0) continue;
    A d[lane_columns], factor[lane_columns];
    load_columns(dy.data + token * dy.stride, column, dy.width, is_packed, d);
    draw.factors(draw.row(token, step), static_cast<std::uint32_t>(column), factor);
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) total[i] += drop_out(d[i], factor[i]);
  }
#pragma unroll
  for (int i = 0; i < lane_columns; ++i) sums[slot][lane * lane_columns + i] = total[i];
  __syncthreads();
  const std::int64_t c = std::int64_t{blockIdx.y} * slab_columns + threadIdx.x;
  if (threadIdx.x >= slab_columns || c >= dy.width) return;
  A sum = 0;
#pragma unroll
  for (int j = 0; j < place_slots; ++j) sum += sums[j][threadIdx.x];
  table[place * dy.width + c] += sum;
}

}  // namespace

template <class T>
void scatter_add_rows(Cuda& cuda, Rows<const T> dy, const DropoutMask& mask, const std::int32_t* id,
                      std::int64_t rows, Accumulate<T>* table) {
  if (dy.rows == 0 || dy.width == 0 || rows == 0) return;
  const DropoutDraw<Accumulate<T>> draw(mask);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (rows <= most_hot_rows && is_packed<T>(dy.width, dy.stride, dy.data))
      return scatter_one_hot(cuda, dy, draw, id, rows, table);
  } else {
    if (fits_slab<T>(cuda, rows) && is_packed<T>(dy.width, dy.stride, dy.data))
      return scatter_slabs(cuda, dy, draw, id, rows, table);
  }
  scatter_sorted(cuda, dy, draw, id, rows, table);
}

template <class T>
void scatter_add_places(Cuda& cuda, const Sequences& sequences, Rows<const T> dy, const DropoutMask& mask,
                        std::int64_t rows, Accumulate<T>* table) {
  if (dy.rows == 0 || dy.width == 0 || rows == 0) return;
  const dim3 blocks(static_cast<unsigned>(rows),
                    static_cast<unsigned>((dy.width + slab_columns - 1) / slab_columns));
  sum_places<T><<<blocks, row_threads, 0, cuda.stream>>>(sequences, dy, DropoutDraw<Accumulate<T>>(mask),
                                                         is_packed<T>(dy.width, dy.stride, dy.data), table);
  check_launch("scatter_add_places");
}

#define INSTANTIATE(T)                                                                             \
  template void scatter_add_rows<T>(Cuda&, Rows<const T>, const DropoutMask&, const std::int32_t*, \
                                    std::int64_t, Accumulate<T>*);                                 \
  template void scatter_add_places<T>(Cuda&, const Sequences&, Rows<const T>, const DropoutMask&,  \
                                      std::int64_t, Accumulate<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
