// Table gradients through a sort by id, for tables of any size. Deterministic: the sort is stable, and an
// entry of the table is written by one thread, which adds in order of tokens inside pieces and in order of
// pieces. Cost: the sort (8 bytes a token in each pass, a pass for each 8 bits of the ids), one read of dy in
// rows, and the touched rows.
#pragma once

#include <bit>

#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/row_lanes.cuh"

namespace tern::kernels {
namespace {

constexpr int sorted_piece = 16;  ///< neighbours in the sorted order that one thread adds
constexpr int sorted_depth = 4;   ///< of them on their way from memory

/// Tokens in order of their ids; ids outside the table became `rows`.
struct SortedTokens {
  const std::uint32_t* id;
  const std::int32_t* token;
  std::int64_t count;
  std::uint32_t rows;
};

__global__ void __launch_bounds__(row_threads)
    number_tokens(const std::int32_t* id, std::int64_t count, std::uint32_t rows, std::uint32_t* key,
                  std::int32_t* token) {
  for (std::int64_t r = thread_index(); r < count; r += grid_threads()) {
    const auto value = static_cast<std::uint32_t>(id[r]);
    key[r] = value < rows ? value : rows;
    token[r] = static_cast<std::int32_t>(r);
  }
}

/// Adds a run's sum to eight columns of a row, or writes it there.
template <class A>
__device__ __forceinline__ void store_run(A* to, std::int64_t column, std::int64_t width, bool is_packed,
                                          bool is_added, const A (&total)[lane_columns]) {
  A sum[lane_columns] = {};
  if (is_added) load_columns(to, column, width, is_packed, sum);
#pragma unroll
  for (int i = 0; i < lane_columns; ++i) sum[i] += total[i];
  store_columns(to, column, width, is_packed, sum);
}

/// Thread: one piece, eight columns. A run of equal ids that lies inside the piece goes to the table; what
/// continues a run of the piece before goes to edge[piece, 0], what starts one that the next piece continues to
/// edge[piece, 1].
template <class T>
__global__ void __launch_bounds__(row_threads)
    sum_runs(SortedTokens sorted, Rows<const T> dy, DropoutDraw<Accumulate<T>> draw, bool is_packed,
             Accumulate<T>* edge, Accumulate<T>* table) {
  using A = Accumulate<T>;
  const std::int64_t groups = (dy.width + lane_columns - 1) / lane_columns;
  const std::int64_t piece = thread_index() / groups, column = thread_index() % groups * lane_columns;
  const std::int64_t first = piece * sorted_piece;
  if (first >= sorted.count) return;
  const std::int64_t end = first + sorted_piece < sorted.count ? first + sorted_piece : sorted.count;
  const std::uint32_t before = first > 0 ? sorted.id[first - 1] : sorted.rows,
                      after = end < sorted.count ? sorted.id[end] : sorted.rows;
  const std::uint32_t step = draw.step();
  A total[lane_columns] = {};
  bool is_first_run = true;
  for (std::int64_t batch = first; batch < end; batch += sorted_depth) {
    A d[sorted_depth][lane_columns];
    DropoutRow coordinates[sorted_depth];
#pragma unroll
    for (int k = 0; k < sorted_depth; ++k) {
      const std::int64_t token = sorted.token[batch + k < end ? batch + k : end - 1];
      load_columns(dy.data + token * dy.stride, column, dy.width, is_packed, d[k]);
      coordinates[k] = draw.row(token, step);
    }
#pragma unroll
    for (int k = 0; k < sorted_depth; ++k) {
      const std::int64_t e = batch + k;
      if (e >= end) return;
      const std::uint32_t id = sorted.id[e];
      if (id >= sorted.rows) return;
      A factor[lane_columns];
      draw.factors(coordinates[k], static_cast<std::uint32_t>(column), factor);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) total[i] += drop_out(d[k][i], factor[i]);
      if (e + 1 < end && sorted.id[e + 1] == id) continue;
      const bool continues = is_first_run && id == before, goes_on = e + 1 == end && id == after;
      A* const to =
          continues || goes_on ? edge + (piece * 2 + (continues ? 0 : 1)) * dy.width : table + id * dy.width;
      store_run(to, column, dy.width, is_packed, !(continues || goes_on), total);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) total[i] = 0;
      is_first_run = false;
    }
  }
}

/// Thread: one piece, one column. Where a run starts in this piece and goes on, adds its parts to the table.
template <class A>
__global__ void __launch_bounds__(row_threads)
    join_runs(SortedTokens sorted, std::int64_t width, const A* edge, A* table) {
  const std::int64_t piece = thread_index() / width, column = thread_index() % width;
  const std::int64_t first = piece * sorted_piece, next = first + sorted_piece;
  if (next >= sorted.count) return;
  const std::uint32_t id = sorted.id[next];
  if (id >= sorted.rows || sorted.id[next - 1] != id) return;
  if (first > 0 && sorted.id[first - 1] == id) return;  // the run starts in a piece before
  std::int64_t low = next, high = sorted.count;         // the run's end
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (sorted.id[middle] == id)
      low = middle + 1;
    else
      high = middle;
  }
  const std::int64_t last = (low - 1) / sorted_piece;
  A total = edge[(piece * 2 + 1) * width + column];
#pragma unroll 8
  for (std::int64_t p = piece + 1; p <= last; ++p) total += edge[p * 2 * width + column];
  table[id * width + column] += total;
}

template <class T>
void scatter_sorted(Cuda& cuda, const Rows<const T>& dy, const DropoutDraw<Accumulate<T>>& draw,
                    const std::int32_t* id, std::int64_t rows, Accumulate<T>* table) {
  using A = Accumulate<T>;
  const std::int64_t count = dy.rows, pieces = (count + sorted_piece - 1) / sorted_piece;
  require(rows < INT32_MAX && count < INT32_MAX,
          "scatter_add_rows: rows and tokens must number less than 2^31");
  const Scratch<std::uint32_t> keys(cuda, 2 * count);
  const Scratch<std::int32_t> tokens(cuda, 2 * count);
  number_tokens<<<grid_for(cuda, count, row_threads), row_threads, 0, cuda.stream>>>(
      id, count, static_cast<std::uint32_t>(rows), keys.data(), tokens.data());
  check_launch("scatter_add_rows");
  const int bits = std::bit_width(static_cast<std::uint32_t>(rows));
  std::size_t bytes = 0;
  const auto sort = [&](void* memory) {
    check_cuda(cub::DeviceRadixSort::SortPairs(memory, bytes, keys.data(), keys.data() + count, tokens.data(),
                                               tokens.data() + count, static_cast<std::int32_t>(count), 0, bits,
                                               cuda.stream),
               "scatter_add_rows");
  };
  sort(nullptr);
  const Scratch<std::byte> memory(cuda, static_cast<std::int64_t>(bytes));
  sort(memory.data());
  const SortedTokens sorted{keys.data() + count, tokens.data() + count, count,
                            static_cast<std::uint32_t>(rows)};
  const Scratch<A> edge(cuda, pieces * 2 * dy.width);
  const std::int64_t groups = (dy.width + lane_columns - 1) / lane_columns;
  const bool packed = is_packed<T>(dy.width, dy.stride, dy.data, table);
  const auto blocks = [](std::int64_t threads) {
    return static_cast<unsigned>((threads + row_threads - 1) / row_threads);
  };
  sum_runs<T>
      <<<blocks(pieces * groups), row_threads, 0, cuda.stream>>>(sorted, dy, draw, packed, edge.data(), table);
  check_launch("scatter_add_rows");
  join_runs<A>
      <<<blocks(pieces * dy.width), row_threads, 0, cuda.stream>>>(sorted, dy.width, edge.data(), table);
  check_launch("scatter_add_rows");
}

}  // namespace
}  // namespace tern::kernels
