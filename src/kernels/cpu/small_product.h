// Products of small dense blocks, c = a b or c += a b, with a in any layout and rows of b and c padded to whole
// vectors. Register block: a few rows of c by two vectors; an element of a is broadcast, a row of b is loaded.
#pragma once

#include <cstdint>

#include "kernels/cpu/lanes.h"

namespace tern::kernels {

/// Element (r, c) lies at data[r * row_stride + c * column_stride].
template <class T>
struct Strided {
  const T* data;
  std::int64_t row_stride, column_stride;
};

template <class T, Isa isa>
struct SmallProduct {
  using L = Lanes<T, isa>;
  using Vector = typename L::Vector;
  static constexpr int block_rows = isa == Isa::v4 ? 8 : isa == Isa::v3 ? 6 : 4;
  static constexpr int block_vectors = 2;

  /// sum = a[rows x depth] b[depth x vectors] in registers; each sum runs over depth in order.
  template <int rows, int vectors>
  [[gnu::always_inline]] static inline void block(std::int64_t depth, Strided<T> a, const T* b,
                                                  std::int64_t b_stride, Vector (&sum)[rows][vectors]) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] = Vector{};
    }
    for (std::int64_t step = 0; step < depth; ++step) {
      Vector row[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) row[v] = L::load(b + step * b_stride + v * L::count);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const Vector factor = L::broadcast(a.data[r * a.row_stride + step * a.column_stride]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[r][v] += factor * row[v];
      }
    }
  }

  /// c[rows x columns] = (or +=, where `add`) a[rows x depth] b[depth x columns]; columns a multiple of the
  /// lanes.
  template <bool add>
  static void run(std::int64_t rows, std::int64_t columns, std::int64_t depth, Strided<T> a, const T* b,
                  std::int64_t b_stride, T* c, std::int64_t c_stride) {
    constexpr int wide = block_vectors * L::count;
    std::int64_t column = 0;
    for (; column + wide <= columns; column += wide) {
      panel<add, block_vectors>(rows, depth, a, b + column, b_stride, c + column, c_stride);
    }
    for (; column < columns; column += L::count) {
      panel<add, 1>(rows, depth, a, b + column, b_stride, c + column, c_stride);
    }
  }

 private:
  template <bool add, int vectors>
  static void panel(std::int64_t rows, std::int64_t depth, Strided<T> a, const T* b, std::int64_t b_stride,
                    T* c, std::int64_t c_stride) {
    std::int64_t r = 0;
    const auto rest = [&](std::int64_t row) {
      return Strided<T>{a.data + row * a.row_stride, a.row_stride, a.column_stride};
    };
    for (; r + block_rows <= rows; r += block_rows) {
      stored<add, block_rows, vectors>(depth, rest(r), b, b_stride, c + r * c_stride, c_stride);
    }
    if constexpr (block_rows > 4) {
      for (; r + 4 <= rows; r += 4)
        stored<add, 4, vectors>(depth, rest(r), b, b_stride, c + r * c_stride, c_stride);
    }
    for (; r + 2 <= rows; r += 2)
      stored<add, 2, vectors>(depth, rest(r), b, b_stride, c + r * c_stride, c_stride);
    for (; r < rows; ++r) stored<add, 1, vectors>(depth, rest(r), b, b_stride, c + r * c_stride, c_stride);
  }

  template <bool add, int rows, int vectors>
  [[gnu::always_inline]] static inline void stored(std::int64_t depth, Strided<T> a, const T* b,
                                                   std::int64_t b_stride, T* c, std::int64_t c_stride) {
    Vector sum[rows][vectors];
    block<rows, vectors>(depth, a, b, b_stride, sum);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        T* place = c + r * c_stride + v * L::count;
        L::store(place, add ? L::load(place) + sum[r][v] : sum[r][v]);
      }
    }
  }
};

}  // namespace tern::kernels
