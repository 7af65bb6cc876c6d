// Gradients of collided pairs: the rows of one (sequence, head), lists of pairs, and crowded buckets as dense
// blocks.
//
// A row of queries holds [q | dy], a row of keys [k | v], each part padded with zeros to whole vectors; row
// `length` is all zero and stands for "no token". Sums go to rows of q_sum and k_sum with the scale of one hash
// left out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/small_product.h"
#include "kernels/cpu/work_items.h"
#include "kernels/hashing.h"

namespace tern::kernels {

/// 1 / ((pi - arccos s) sqrt(1 - s^2)) with s clamped to +-(1 - 1e-6).
template <class T, Isa isa>
struct ExactWeight {
  using L = Lanes<T, isa>;
  using Vector = typename L::Vector;

  [[gnu::always_inline]] static inline Vector of(Vector s) {
    constexpr T bound = T(1) - T(1e-6);
    const Vector high = L::broadcast(bound), low = -high;
    s = s > high ? high : s;
    s = s < low ? low : s;
    const Vector square = (T(1) - s) * (T(1) + s);
    if constexpr (sizeof(T) == 4) {
      // arccos x = sqrt(1 - x) P(x) for x in [0, 1] (Abramowitz and Stegun 4.4.46, error below 2e-8), and
      // pi - arccos(s) = arccos(-s)
      const Vector x = s < Vector{} ? -s : s;
      Vector p = L::broadcast(-0.0012624911f);
      for (const float c : {0.0066700901f, -0.0170881256f, 0.0308918810f, -0.0501743046f, 0.0889789874f,
                            -0.2145988016f, 1.5707963050f}) {
        p = p * x + c;
      }
      p *= root(T(1) - x);
      const Vector angle = s < Vector{} ? p : 3.14159265359f - p;
      return T(1) / (angle * root(square));
    } else {
      Vector angle;
      for (int l = 0; l < L::count; ++l) angle[l] = __builtin_acos(-s[l]);
      return T(1) / (angle * root(square));
    }
  }

 private:
  [[gnu::always_inline]] static inline Vector root(Vector x) {
    if constexpr (isa == Isa::v4 && sizeof(T) == 4) {
      return _mm512_maskz_sqrt_ps(0xFFFF, x);
    } else if constexpr (isa == Isa::v4) {
      return _mm512_maskz_sqrt_pd(0xFF, x);
    } else if constexpr (isa == Isa::v3 && sizeof(T) == 4) {
      return _mm256_sqrt_ps(x);
    } else if constexpr (isa == Isa::v3) {
      return _mm256_sqrt_pd(x);
    } else if constexpr (sizeof(T) == 4) {
      return _mm_sqrt_ps(x);
    } else {
      return _mm_sqrt_pd(x);
    }
  }
};

/// Operands and sums of one (sequence, head).
template <class T>
struct GradientRows {
  T *query, *key;    ///< [length + 1][2 * width]
  T *q_sum, *k_sum;  ///< [length][width]
  std::int64_t width;
};

/// A list of pairs that is worked off when it is full: dots of all pairs first (lanes run over pairs), then the
/// updates.
template <class T, Isa isa>
class PairList {
 public:
  using L = Lanes<T, isa>;
  static constexpr std::int64_t capacity = 512, slack = 16;

  PairList(Arena<isa>& arena)
      : query_(arena.template take<std::uint32_t>(capacity + slack)),
        key_(arena.template take<std::uint32_t>(capacity + slack)),
        weight_(arena.template take<T>(capacity + slack)) {}

  void start(const GradientRows<T>& rows, std::uint32_t no_token, bool exact) {
    rows_ = rows;
    no_token_ = no_token;
    exact_ = exact;
    count_ = 0;
  }

  /// Pairs of one query with keys[0 .. count); reads up to three entries beyond.
  [[gnu::always_inline]] inline void add(std::uint32_t query, const std::uint32_t* keys, std::int64_t count) {
    while (count_ + count > capacity) [[unlikely]] {
        const std::int64_t part = capacity - count_;
        append(query, keys, part);
        keys += part;
        count -= part;
        flush();
      }
    append(query, keys, count);
  }

  void flush() {
    const std::int64_t vectors = rows_.width / L::count;
    with_vector_count<isa>(vectors, [&](auto fixed) {
      weigh<fixed()>(vectors);
      update<fixed()>(vectors);
    });
    count_ = 0;
  }

 private:
  // Most queries meet a few keys: four entries are written whatever the count, and the count decides what
  // stays.
  [[gnu::always_inline]] inline void append(std::uint32_t query, const std::uint32_t* keys,
                                            std::int64_t count) {
    for (std::int64_t t = 0; t < count || t == 0; t += 4) {
      for (int u = 0; u < 4; ++u) {
        query_[count_ + t + u] = query;
        key_[count_ + t + u] = keys[t + u];
      }
    }
    count_ += count;
  }

  template <int fixed>
  void weigh(std::int64_t vectors) {
    for (std::int64_t p = count_; p < count_ + slack; ++p) query_[p] = key_[p] = no_token_;
    const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
    for (std::int64_t p = 0; p < count_; p += L::count) L::store(weight_ + p, dots(p, width, count));
    if (!exact_) return;
    for (std::int64_t p = 0; p < count_; p += L::count) {
      L::store(weight_ + p, L::load(weight_ + p) * ExactWeight<T, isa>::of(dots(p, 0, count)));
    }
  }

  /// Products of the rows of pairs p, p + 1, ..., of their parts from column `part` on.
  [[gnu::always_inline]] inline typename L::Vector dots(std::int64_t p, std::int64_t part,
                                                        std::int64_t vectors) const {
    typename L::Vector product[L::count];
#pragma GCC unroll 16
    for (int u = 0; u < L::count; ++u) {
      const T* query = rows_.query + query_[p + u] * 2 * rows_.width + part;
      const T* key = rows_.key + key_[p + u] * 2 * rows_.width + part;
      product[u] = L::load(query) * L::load(key);
      for (std::int64_t c = L::count; c < vectors * L::count; c += L::count) {
        product[u] += L::load(query + c) * L::load(key + c);
      }
    }
    return L::sum_each(product);
  }

  template <int fixed>
  void update(std::int64_t vectors) {
    const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
    for (std::int64_t p = 0; p < count_; ++p) {
      const auto weight = L::broadcast(weight_[p]);
      const T* query = rows_.query + query_[p] * 2 * width;
      const T* key = rows_.key + key_[p] * 2 * width;
      T* dq = rows_.q_sum + query_[p] * width;
      T* dk = rows_.k_sum + key_[p] * width;
      for (std::int64_t v = 0; v < count; ++v) {
        const std::int64_t c = v * L::count;
        L::store(dq + c, L::load(dq + c) + weight * L::load(key + c));
        L::store(dk + c, L::load(dk + c) + weight * L::load(query + c));
      }
    }
  }

  std::uint32_t *query_, *key_;
  T* weight_;
  GradientRows<T> rows_{};
  std::int64_t count_ = 0;
  std::uint32_t no_token_ = 0;
  bool exact_ = false;
};

/// Crowded buckets. Lists of token numbers stand for the rows of a bucket.
template <class T, Isa isa>
class BucketBlocks {
 public:
  using L = Lanes<T, isa>;
  using Product = SmallProduct<T, isa>;
  static constexpr std::int64_t side = 64;  ///< rows of a block

  BucketBlocks(Arena<isa>& arena, std::int64_t width)
      : query_(arena.template take<T>(side * 2 * width)),
        key_(arena.template take<T>(side * 2 * width)),
        turned_(arena.template take<T>(side * 2 * width)),
        gain_(arena.template take<T>(side * side)),
        cosine_(arena.template take<T>(side * side)),
        q_part_(arena.template take<T>(side * width)),
        k_part_(arena.template take<T>(side * width)),
        moment_(arena.template take<T>(width * width)) {}

  void start(const GradientRows<T>& rows) { rows_ = rows; }

  /// All pairs of at most `side` queries and at most `side` keys, weighted by `scale`.
  void pairs(const std::uint32_t* queries, std::int64_t query_count, const std::uint32_t* keys,
             std::int64_t key_count, bool exact, T scale) {
    const std::int64_t width = rows_.width, columns = L::padded(key_count);
    collect(rows_.query, queries, query_count, query_);
    collect(rows_.key, keys, key_count, key_);
    turn(key_count, exact);
    Product::template run<false>(query_count, columns, width, {query_ + width, 2 * width, 1},
                                 turned_ + width * side, side, gain_, side);
    if (exact) {
      Product::template run<false>(query_count, columns, width, {query_, 2 * width, 1}, turned_, side, cosine_,
                                   side);
      for (std::int64_t i = 0; i < query_count; ++i) {
        for (std::int64_t j = i * side; j < i * side + columns; j += L::count) {
          L::store(gain_ + j, scale * L::load(gain_ + j) * ExactWeight<T, isa>::of(L::load(cosine_ + j)));
        }
      }
    }
    Product::template run<false>(query_count, width, key_count, {gain_, side, 1}, key_, 2 * width, q_part_,
                                 width);
    Product::template run<false>(key_count, width, query_count, {gain_, 1, side}, query_, 2 * width, k_part_,
                                 width);
    spread(q_part_, queries, query_count, rows_.q_sum);
    spread(k_part_, keys, key_count, rows_.k_sum);
  }

  /// All pairs of a bucket in time linear in its rows (surrogate weight): dq_i = M dy_i with M = sum_j k_j
  /// v_j^T and dk_j = P v_j with P = sum_i q_i dy_i^T. Both are kept transposed.
  void moments(const std::uint32_t* queries, std::int64_t query_count, const std::uint32_t* keys,
               std::int64_t key_count) {
    sum_products(rows_.key, keys, key_count, key_);
    apply(rows_.query, queries, query_count, query_, rows_.q_sum);
    sum_products(rows_.query, queries, query_count, query_);
    apply(rows_.key, keys, key_count, key_, rows_.k_sum);
  }

 private:
  void collect(const T* rows, const std::uint32_t* list, std::int64_t count, T* block) const {
    const std::int64_t width = 2 * rows_.width;
    for (std::int64_t i = 0; i < count; ++i) {
      const T* row = rows + list[i] * width;
      for (std::int64_t c = 0; c < width; c += L::count) L::store(block + i * width + c, L::load(row + c));
    }
  }

  void spread(const T* block, const std::uint32_t* list, std::int64_t count, T* sums) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t i = 0; i < count; ++i) {
      T* row = sums + list[i] * width;
      for (std::int64_t c = 0; c < width; c += L::count) {
        L::store(row + c, L::load(row + c) + L::load(block + i * width + c));
      }
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

  /// Adds y moment_ to the sum of each listed row [x | y].
  void apply(const T* rows, const std::uint32_t* list, std::int64_t count, T* block, T* sums) const {
    const std::int64_t width = rows_.width;
    for (std::int64_t i = 0; i < count; i += side) {
      const std::int64_t part = count - i < side ? count - i : side;
      collect(rows, list + i, part, block);
      Product::template run<false>(part, width, width, {block + width, 2 * width, 1}, moment_, width, q_part_,
                                   width);
      spread(q_part_, list + i, part, sums);
    }
  }

  T *query_, *key_;      // [side][2 * width]
  T* turned_;            // [2 * width][side]
  T *gain_, *cosine_;    // [side][side]
  T *q_part_, *k_part_;  // [side][width]
  T* moment_;            // [width][width]
  GradientRows<T> rows_{};
};

}  // namespace tern::kernels
