// Gradients of crowded buckets: all pairs as dense blocks, or moments. Sums are those of collision_pairs.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/collision_lists.h"
#include "kernels/cpu/collision_pairs.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/small_product.h"
#include "kernels/cpu/work_items.h"

namespace tern::kernels {

/// Crowded buckets. Lists of token numbers stand for the rows of a bucket.
template <class T, Isa isa>
class BucketBlocks {
 public:
  using L = Lanes<T, isa>;
  using Product = SmallProduct<T, isa>;
  static constexpr std::int64_t side = 64;  ///< rows of a block

  BucketBlocks(Layout& layout, std::int64_t width)
      : query_(layout.take<T>(side * 2 * width)),
        key_(layout.take<T>(side * 2 * width)),
        turned_(layout.take<T>(side * 2 * width)),
        gain_(layout.take<T>(side * side)),
        cosine_(layout.take<T>(side * side)),
        part_(layout.take<T>(side * width)),
        value_(layout.take<T>(width)),
        moment_(layout.take<T>(width * width)) {}

  void start(const GradientRows<T>& rows) { rows_ = rows; }

  /// Sums dy over a bucket's queries, for add_values, moments and the first pairs of each key.
  void sum_values(const BucketRows& bucket) const {
    in_columns([&](auto vectors, std::int64_t column) { sum_columns<vectors()>(bucket, column); });
  }

  /// Adds the sum to the dv of every key.
  void add_values(const BucketRows& bucket) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t j = 0; j < bucket.keys; ++j) add(rows_.k_sum + bucket.key[j] * 2 * width + width, value_);
  }

  /// All pairs of at most `side` queries and at most `side` keys, weighted by `scale`; with `values` the sum of
  /// values too.
  void pairs(const BucketRows& block, bool exact, T scale, bool values) {
    const std::int64_t width = rows_.width, columns = L::padded(block.keys);
    collect(rows_.query, block.query, block.queries, query_);
    collect(rows_.key, block.key, block.keys, key_);
    turn(block.keys, exact);
    Product::template run<false>(block.queries, columns, width, {query_ + width, 2 * width, 1},
                                 turned_ + width * side, side, gain_, side);
    if (exact) {
      Product::template run<false>(block.queries, columns, width, {query_, 2 * width, 1}, turned_, side,
                                   cosine_, side);
      for (std::int64_t i = 0; i < block.queries; ++i) {
        for (std::int64_t j = i * side; j < i * side + columns; j += L::count) {
          L::store(gain_ + j, scale * L::load(gain_ + j) * ExactWeight<T, isa>::of(L::load(cosine_ + j)));
        }
      }
    }
    Product::template run<false>(block.queries, width, block.keys, {gain_, side, 1}, key_, 2 * width, part_,
                                 width);
    spread_queries(block.query, block.queries);
    Product::template run<false>(block.keys, width, block.queries, {gain_, 1, side}, query_, 2 * width, part_,
                                 width);
    spread_keys(block.key, block.keys, values);
  }

  /// All pairs of a bucket in time linear in its rows (surrogate weight): dq_i = M dy_i with M = sum_j k_j
  /// v_j^T. Moments are kept transposed.
  void query_moments(const BucketRows& bucket) {
    sum_products(rows_.key, bucket.key, bucket.keys, key_);
    apply(rows_.query, bucket.query, bucket.queries, query_,
          [&](const std::uint32_t* list, std::int64_t count) { spread_queries(list, count); });
  }

  /// dk_j = P v_j with P = sum_i q_i dy_i^T; and the sum of values.
  void key_moments(const BucketRows& bucket) {
    sum_products(rows_.query, bucket.query, bucket.queries, query_);
    apply(rows_.key, bucket.key, bucket.keys, key_,
          [&](const std::uint32_t* list, std::int64_t count) { spread_keys(list, count, true); });
  }

 private:
  /// Calls body(vectors, column) for blocks of columns, whose number is a constant.
  template <class Body>
  void in_columns(const Body& body) const {
    const std::int64_t vectors = rows_.width / L::count;
    with_vector_count<isa>(vectors, [&](auto fixed) {
      constexpr int block = fixed() > 0 ? std::min<int>(fixed(), 4) : 1;
      for (std::int64_t v = 0; v < vectors; v += block)
        body(std::integral_constant<int, block>{}, v * L::count);
    });
  }

  /// Partial sums of `side` rows bound the rounding error of large buckets.
  template <int vectors>
  [[gnu::always_inline]] inline void sum_columns(const BucketRows& bucket, std::int64_t column) const {
    const std::int64_t width = rows_.width;
    typename L::Vector total[vectors]{};
    for (std::int64_t first = 0; first < bucket.queries; first += side) {
      typename L::Vector part[vectors]{};
      for (std::int64_t i = first; i < std::min(bucket.queries, first + side); ++i) {
        const T* dy = rows_.query + bucket.query[i] * 2 * width + width + column;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) part[v] += L::load(dy + v * L::count);
      }
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) total[v] += part[v];
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) L::store(value_ + column + v * L::count, total[v]);
  }

  /// row += other
  [[gnu::always_inline]] inline void add(T* row, const T* other) const {
    for (std::int64_t c = 0; c < rows_.width; c += L::count) {
      L::store(row + c, L::load(row + c) + L::load(other + c));
    }
  }

  void collect(const T* rows, const std::uint32_t* list, std::int64_t count, T* block) const {
    const std::int64_t width = 2 * rows_.width;
    for (std::int64_t i = 0; i < count; ++i) {
      const T* row = rows + list[i] * width;
      for (std::int64_t c = 0; c < width; c += L::count) L::store(block + i * width + c, L::load(row + c));
    }
  }

  /// Adds rows of part_ to dq.
  void spread_queries(const std::uint32_t* list, std::int64_t count) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t i = 0; i < count; ++i) add(rows_.q_sum + list[i] * width, part_ + i * width);
  }

  /// Adds rows of part_ to dk and, for `values`, the sum of values to dv.
  void spread_keys(const std::uint32_t* list, std::int64_t count, bool values) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t j = 0; j < count; ++j) {
      T* sums = rows_.k_sum + list[j] * 2 * width;
      add(sums, part_ + j * width);
      if (values) add(sums + width, value_);
    }
  }

  /// turned_ = columns of the v part (and, for `both`, of the k part) of the key block.
  void turn(std::int64_t count, bool both) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t j = 0; j < count; j += L::count) {
      for (std::int64_t c = both ? 0 : width; c < 2 * width; c += L::count) {
        typename L::Vector v[L::count];
#pragma GCC unroll 16
        for (int u = 0; u < L::count; ++u) {
          v[u] = j + u < count ? L::load(key_ + (j + u) * 2 * width + c) : typename L::Vector{};
        }
        L::transpose(v);
#pragma GCC unroll 16
        for (int u = 0; u < L::count; ++u) L::store(turned_ + (c + u) * side + j, v[u]);
      }
    }
  }

  /// moment_ = sum over the listed rows [x | y] of y x^T.
  void sum_products(const T* rows, const std::uint32_t* list, std::int64_t count, T* block) const {
    const std::int64_t width = rows_.width;
    std::fill_n(moment_, width * width, T{});
    for (std::int64_t i = 0; i < count; i += side) {
      const std::int64_t part = count - i < side ? count - i : side;
      collect(rows, list + i, part, block);
      Product::template run<true>(width, width, part, {block + width, 1, 2 * width}, block, 2 * width, moment_,
                                  width);
    }
  }

  /// part_ = y moment_ for every listed row [x | y], block by block, each handed to `spread`.
  template <class Spread>
  void apply(const T* rows, const std::uint32_t* list, std::int64_t count, T* block,
             const Spread& spread) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t i = 0; i < count; i += side) {
      const std::int64_t part = count - i < side ? count - i : side;
      collect(rows, list + i, part, block);
      Product::template run<false>(part, width, width, {block + width, 2 * width, 1}, moment_, width, part_,
                                   width);
      spread(list + i, part);
    }
  }

  T *query_, *key_;    // [side][2 * width]
  T* turned_;          // [2 * width][side]
  T *gain_, *cosine_;  // [side][side]
  T* part_;            // [side][width]
  T* value_;           // [width]
  T* moment_;          // [width][width]
  GradientRows<T> rows_{};
};

}  // namespace tern::kernels
