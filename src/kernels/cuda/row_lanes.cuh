// Rows held in registers: a group of lanes of one warp owns a row, each lane eight neighbouring columns at a
// time (one Philox block; 16 bytes of bfloat16, two accesses of float32, four of float64).
#pragma once

#include "kernels/cuda/block.cuh"

namespace tern::kernels {

constexpr int lane_columns = 8;
constexpr int row_threads = 256;

/// Eight neighbouring columns as they lie in memory.
template <class T>
struct Eight {
  static constexpr int items = pack_items<T>;
  Pack<T, items> pack[lane_columns / items];
  __device__ __forceinline__ Accumulate<T> operator[](int i) const {
    return to_accumulate(pack[i / items].item[i % items]);
  }
};
template <class T>
__device__ __forceinline__ Eight<T> load_raw(const T* from) {
  Eight<T> eight;
#pragma unroll
  for (int p = 0; p < lane_columns / Eight<T>::items; ++p)
    eight.pack[p] = load_pack<Eight<T>::items>(from + p * Eight<T>::items);
  return eight;
}
template <class T>
__device__ __forceinline__ void load_eight(const T* from, Accumulate<T> (&x)[lane_columns]) {
  const Eight<T> raw = load_raw(from);
#pragma unroll
  for (int i = 0; i < lane_columns; ++i) x[i] = raw[i];
}
/// Leaves in `x` what was stored: the values rounded to T.
template <class T>
__device__ __forceinline__ void store_eight(T* to, Accumulate<T> (&x)[lane_columns], bool is_active) {
  constexpr int items = pack_items<T>;
#pragma unroll
  for (int first = 0; first < lane_columns; first += items) {
    Pack<T, items> pack;
#pragma unroll
    for (int i = 0; i < items; ++i) {
      pack.item[i] = from_accumulate<T>(x[first + i]);
      x[first + i] = to_accumulate(pack.item[i]);
    }
    if (is_active) store_pack(to + first, pack);
  }
}

/// Loads columns column .. column + 7 of a row of `width`, those outside as 0; `is_packed`: whole and aligned.
template <class T>
__device__ __forceinline__ void load_columns(const T* row, std::int64_t column, std::int64_t width,
                                             bool is_packed, Accumulate<T> (&x)[lane_columns]) {
  if (is_packed) return load_eight(row + column, x);
#pragma unroll
  for (int i = 0; i < lane_columns; ++i)
    x[i] = column + i < width ? to_accumulate(row[column + i]) : Accumulate<T>(0);
}
template <class T>
__device__ __forceinline__ void store_columns(T* row, std::int64_t column, std::int64_t width, bool is_packed,
                                              Accumulate<T> (&x)[lane_columns]) {
  if (is_packed) return store_eight(row + column, x, true);
#pragma unroll
  for (int i = 0; i < lane_columns; ++i)
    if (column + i < width) row[column + i] = from_accumulate<T>(x[i]);
}

/// Whether rows consist of whole, aligned runs of eight columns.
template <class T, class... Pointers>
bool is_packed(std::int64_t width, std::int64_t stride, Pointers... pointers) {
  return width % lane_columns == 0 && stride % pack_items<T> == 0 && is_aligned(16, pointers...);
}

/// x times its dropout factor: 0 where that is 0, even if x is not finite.
template <class A>
__device__ __forceinline__ A drop_out(A x, A factor) {
  return factor == A(0) ? A(0) : x * factor;
}

/// `lanes` lanes own a row; each owns `units` runs of eight columns. More than a warp's lanes are whole warps
/// of one block.
template <int lanes_, int units_>
struct RowLanes {
  static constexpr int lanes = lanes_, units = units_;
  static constexpr int warps = lanes > warp_lanes ? lanes / warp_lanes : 1;  ///< of a row
  static constexpr int rows_per_warp = lanes < warp_lanes ? warp_lanes / lanes : 1;
  static constexpr int rows_per_block = row_threads / lanes;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % lanes; }
  /// First column of run `unit` of this lane.
  __device__ static int column(int unit) { return (unit * lanes + lane()) * lane_columns; }
  /// This thread's row in the first pass of a grid-stride loop, and that of its warp's first lane: warps leave
  /// the loop as a whole, since their lanes exchange sums.
  __device__ static std::int64_t first_row() { return thread_index() / lanes; }
  __device__ static std::int64_t first_warp_row() {
    return warps > 1 ? first_row() : thread_index() / warp_lanes * rows_per_warp;
  }
  __device__ static std::int64_t row_step() { return grid_threads() / lanes; }
};

constexpr std::int64_t widest_row_in_registers = 1024;
/// Whether rows of `width` elements fit RowLanes; pointers and strides must be multiples of 16 bytes besides.
constexpr bool fits_row_lanes(std::int64_t width) {
  return width % lane_columns == 0 && width <= widest_row_in_registers;
}
/// Calls body(RowLanes<..>{}) with the instance for rows of `width` elements.
template <class Body>
void with_row_lanes(std::int64_t width, const Body& body) {
  const std::int64_t runs = width / lane_columns;
  if (runs <= 8) return body(RowLanes<8, 1>{});
  if (runs <= 16) return body(RowLanes<16, 1>{});
  if (runs <= 32) return body(RowLanes<32, 1>{});
  if (runs <= 64) return body(RowLanes<32, 2>{});
  if (runs <= 96) return body(RowLanes<32, 3>{});
  body(RowLanes<32, 4>{});
}

/// The same with one run of eight columns for each lane.
template <class Body>
void with_row_teams(std::int64_t width, const Body& body) {
  const std::int64_t runs = width / lane_columns;
  if (runs <= 8) return body(RowLanes<8, 1>{});
  if (runs <= 16) return body(RowLanes<16, 1>{});
  if (runs <= 32) return body(RowLanes<32, 1>{});
  if (runs <= 64) return body(RowLanes<64, 1>{});
  body(RowLanes<128, 1>{});
}

}  // namespace tern::kernels
