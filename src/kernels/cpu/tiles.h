// Register-blocked products of small row-major blocks in scratch memory, and the packing that prepares them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"
#include "kernels/view.h"

namespace tern::kernels {
namespace {

/// Rows of a product that are summed in registers together: with two vectors a row, the sums, one broadcast and
/// two right-hand vectors fit into the 16 (v2, v3) or 32 (v4) registers and cover the latency of multiply-add.
template <Isa isa>
constexpr int tile_rows = isa == Isa::v4 ? 8 : 4;

/// Blocks are allocated in multiples of this many rows or columns.
constexpr int block_step = 16;

constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

/// Columns that a row of `width` elements takes in scratch, and its leading dimension.
template <class T, Isa isa>
constexpr int padded_width(int width) {
  return round_up(width, Simd<T, isa>::lanes);
}

/// Sums of `rows` x `vectors` (1 or 2) vectors, one member a row: an array would be kept in memory.
template <class T, Isa isa, int rows, int vectors>
struct RowSums {
  Vector<T, isa> first{}, second{};
  RowSums<T, isa, rows - 1, vectors> next;

  [[gnu::always_inline]] inline void add_product(const T* left, std::ptrdiff_t row_stride, Vector<T, isa> right,
                                                 Vector<T, isa> right2) {
    const Vector<T, isa> value = broadcast<T, isa>(*left);
    first += value * right;
    if constexpr (vectors == 2) second += value * right2;
    if constexpr (rows > 1) next.add_product(left + row_stride, row_stride, right, right2);
  }
  template <bool accumulate>
  [[gnu::always_inline]] inline void store_to(T* out, std::ptrdiff_t row_stride) const {
    constexpr int lanes = Simd<T, isa>::lanes;
    store<T, isa>(out, accumulate ? load<T, isa>(out) + first : first);
    if constexpr (vectors == 2)
      store<T, isa>(out + lanes, accumulate ? load<T, isa>(out + lanes) + second : second);
    if constexpr (rows > 1) next.template store_to<accumulate>(out + row_stride, row_stride);
  }
};
template <class T, Isa isa, int vectors>
struct RowSums<T, isa, 0, vectors> {};

/// Left operand: element (row, i) lies at data[row * row_stride + i * inner_stride].
template <class T>
struct LeftBlock {
  const T* data;
  std::ptrdiff_t row_stride, inner_stride;
};
/// Row-major block.
template <class T>
struct Block {
  T* data;
  std::ptrdiff_t stride;
};

struct Extents {
  int rows, inner, columns;
};

template <class T, Isa isa, int vectors, bool accumulate>
[[gnu::always_inline]] inline void multiply_columns(Extents extents, LeftBlock<T> a, Block<const T> b,
                                                    Block<T> c) {
  constexpr int step = tile_rows<isa>;
  constexpr int lanes = Simd<T, isa>::lanes;
  for (int row = 0; row < extents.rows; row += step) {
    RowSums<T, isa, step, vectors> sums;
    const T* left = a.data + row * a.row_stride;
    const T* right = b.data;
    for (int i = 0; i < extents.inner; ++i, left += a.inner_stride, right += b.stride) {
      sums.add_product(left, a.row_stride, load<T, isa>(right), load<T, isa>(right + (vectors - 1) * lanes));
    }
    sums.template store_to<accumulate>(c.data + row * c.stride, c.stride);
  }
}

/// c (+)= a b for a [rows, inner] and b [inner, columns]. Rows are computed up to the next multiple of
/// tile_rows and columns up to the next multiple of a vector; what lies there must be readable and is
/// overwritten in c.
template <class T, Isa isa, bool accumulate>
[[gnu::noinline]] void multiply(Extents extents, LeftBlock<T> a, Block<const T> b, Block<T> c) {
  constexpr int lanes = Simd<T, isa>::lanes;
  int column = 0;
  for (; column + lanes < extents.columns; column += 2 * lanes) {
    multiply_columns<T, isa, 2, accumulate>(extents, a, {b.data + column, b.stride},
                                            {c.data + column, c.stride});
  }
  if (column < extents.columns) {
    multiply_columns<T, isa, 1, accumulate>(extents, a, {b.data + column, b.stride},
                                            {c.data + column, c.stride});
  }
}

/// A head's rows `first` .. `first` + `count` - 1 of a view.
template <class T>
struct HeadRows {
  T* data;
  std::ptrdiff_t stride;
  int count, width;
};
template <class T>
[[gnu::always_inline]] inline HeadRows<T> head_rows(const Heads<T>& view, std::int64_t first, int count,
                                                    int head) {
  return {view.data + first * view.token_stride + head * view.head_stride, view.token_stride, count,
          view.width};
}

/// to[r, c] = factor from[r, c], with zeros up to padded_width columns and block_step rows.
template <class T, Isa isa>
void pack(const HeadRows<const T>& from, T factor, T* to) {
  const int columns = padded_width<T, isa>(from.width);
  const int rows = round_up(from.count, block_step);
  for (int r = 0; r < from.count; ++r, to += columns) {
    const T* source = from.data + r * from.stride;
    for (int c = 0; c < from.width; ++c) to[c] = factor * source[c];
    for (int c = from.width; c < columns; ++c) to[c] = 0;
  }
  std::memset(to, 0, sizeof(T) * static_cast<std::size_t>((rows - from.count) * columns));
}

/// to[c, r] = from[r, c] with leading dimension `stride`, and zeros in the columns up to the next block_step.
template <class T>
void pack_transposed(const HeadRows<const T>& from, T* to, int stride) {
  const int rows = round_up(from.count, block_step);
  for (int c = 0; c < from.width; ++c) {
    T* row = to + c * stride;
    for (int r = 0; r < from.count; ++r) row[r] = from.data[r * from.stride + c];
    for (int r = from.count; r < rows; ++r) row[r] = 0;
  }
}

/// to[r, c] (+)= factor from[r, c], rows of `from` being padded_width apart.
template <class T, Isa isa, bool accumulate = false>
void unpack(const T* from, T factor, const HeadRows<T>& to) {
  const int columns = padded_width<T, isa>(to.width);
  for (int r = 0; r < to.count; ++r, from += columns) {
    T* target = to.data + r * to.stride;
    for (int c = 0; c < to.width; ++c) target[c] = (accumulate ? target[c] : T{0}) + factor * from[c];
  }
}

}  // namespace
}  // namespace tern::kernels
