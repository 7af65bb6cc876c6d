// Gradients of pairs of colliding rows, one row after another: the partners of a row are read, its own sums
// stay in registers.
//
// A row of queries holds [q | dy], a row of keys [k | v], each part padded with zeros to whole vectors; row
// `length` is all zero and stands for "no token". A row of sums holds [dq] or [dk | dv] with the scales of one
// hash left out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/work_items.h"

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
  T *query, *key;  ///< [length + 1][2 * width]
  T* q_sum;        ///< [length][width]
  T* k_sum;        ///< [length][2 * width]
  std::int64_t width;
};

/// Rows [x | y] of one side meet rows [z | u] of the other: x's sum gets (y . u) z, weighted by the exact
/// weight of x . z if asked, and with `values` (rows of keys) also u.
template <class T, Isa isa, bool values>
class PairList {
 public:
  using L = Lanes<T, isa>;
  // While one half of the list is worked off, the rows of the other are on their way to the first cache.
  static constexpr std::int64_t half = 32, capacity = 2 * half, slack = 16;

  explicit PairList(Arena<isa>& arena)
      : own_(arena.template take<std::uint32_t>(capacity + slack)),
        other_(arena.template take<std::uint32_t>(capacity + slack)),
        weight_(arena.template take<T>(half + slack)) {}

  void start(const GradientRows<T>& rows, std::uint32_t no_token, bool exact) {
    own_rows_ = values ? rows.key : rows.query;
    other_rows_ = values ? rows.query : rows.key;
    sums_ = values ? rows.k_sum : rows.q_sum;
    width_ = rows.width;
    no_token_ = no_token;
    exact_ = exact;
    count_ = 0;
  }

  /// Pairs of one row with others[0 .. count); reads up to three entries beyond.
  [[gnu::always_inline]] inline void add(std::uint32_t row, const std::uint32_t* others, std::int64_t count) {
    while (count_ + count >= capacity) [[unlikely]] {
        const std::int64_t part = capacity - count_;
        append(row, others, part);
        others += part;
        count -= part;
        work_off_half();
      }
    append(row, others, count);
  }

  /// Works off all pairs.
  void finish() {
    std::fill(own_ + count_, own_ + capacity + slack, no_token_);
    std::fill(other_ + count_, other_ + capacity + slack, no_token_);
    if (count_ > half) {
      const std::int64_t rest = count_ - half;
      work_off_half();
      count_ = rest;
    }
    work_off(count_);
    count_ = 0;
  }

 private:
  void work_off_half() {
    work_off(half);
    std::copy_n(own_ + half, half, own_);
    std::copy_n(other_ + half, half, other_);
    count_ = half;
  }

  void work_off(std::int64_t pairs) {
    const std::int64_t vectors = width_ / L::count;
    with_vector_count<isa>(vectors, [&](auto fixed) {
      weigh<fixed()>(pairs, vectors);
      update<fixed()>(pairs, vectors);
    });
  }

  // Most rows meet a few others: four entries are written whatever the count, and the count decides what stays.
  [[gnu::always_inline]] inline void append(std::uint32_t row, const std::uint32_t* others,
                                            std::int64_t count) {
    for (std::int64_t t = 0; t < count || t == 0; t += 4) {
      for (int u = 0; u < 4; ++u) {
        own_[count_ + t + u] = row;
        other_[count_ + t + u] = others[t + u];
      }
    }
    count_ += count;
  }

  template <int fixed>
  void weigh(std::int64_t pairs, std::int64_t vectors) {
    const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
    for (std::int64_t p = 0; p < pairs; p += L::count) L::store(weight_ + p, dots(p, width, count));
    if (!exact_) return;
    for (std::int64_t p = 0; p < pairs; p += L::count) {
      L::store(weight_ + p, L::load(weight_ + p) * ExactWeight<T, isa>::of(dots(p, 0, count)));
    }
  }

  /// Products of the rows of pairs p, p + 1, ..., of their parts from column `part` on.
  [[gnu::always_inline]] inline typename L::Vector dots(std::int64_t p, std::int64_t part,
                                                        std::int64_t vectors) const {
    const std::int64_t width = vectors * L::count;
    typename L::Vector product[L::count];
#pragma GCC unroll 16
    for (int u = 0; u < L::count; ++u) {
      const T* own = own_rows_ + own_[p + u] * 2 * width + part;
      const T* other = other_rows_ + other_[p + u] * 2 * width + part;
      const T* later = other_rows_ + other_[p + u + half] * 2 * width;
      for (std::int64_t c = 0; c < 2 * width; c += cache_line) __builtin_prefetch(later + c);
      product[u] = L::load(own) * L::load(other);
      for (std::int64_t c = L::count; c < width; c += L::count) {
        product[u] += L::load(own + c) * L::load(other + c);
      }
    }
    return L::sum_each(product);
  }

  template <int fixed>
  void update(std::int64_t pairs, std::int64_t vectors) {
    constexpr int block = fixed > 0 ? std::min(fixed, 4) : 1;
    const std::int64_t count = fixed > 0 ? fixed : vectors;
    for (std::int64_t first = 0, last = 0; first < pairs; first = last) {
      const std::uint32_t row = own_[first];
      while (last < pairs && own_[last] == row) ++last;
      T* sums = sums_ + row * (values ? 2 : 1) * count * L::count;
      for (std::int64_t v = 0; v < count; v += block) add_others<block>(first, last, v, count, sums);
    }
  }

  /// Adds the vectors v .. v + block - 1 of pairs first .. last - 1 to the sums of their common row.
  template <int block>
  [[gnu::always_inline]] inline void add_others(std::int64_t first, std::int64_t last, std::int64_t v,
                                                std::int64_t vectors, T* sums) const {
    const std::int64_t width = vectors * L::count, column = v * L::count;
    typename L::Vector sum[block], value[block];
#pragma GCC unroll 4
    for (int b = 0; b < block; ++b) {
      sum[b] = L::load(sums + column + b * L::count);
      if constexpr (values) value[b] = L::load(sums + width + column + b * L::count);
    }
    for (std::int64_t p = first; p < last; ++p) {
      const auto weight = L::broadcast(weight_[p]);
      const T* other = other_rows_ + other_[p] * 2 * width + column;
#pragma GCC unroll 4
      for (int b = 0; b < block; ++b) {
        sum[b] += weight * L::load(other + b * L::count);
        if constexpr (values) value[b] += L::load(other + width + b * L::count);
      }
    }
#pragma GCC unroll 4
    for (int b = 0; b < block; ++b) {
      L::store(sums + column + b * L::count, sum[b]);
      if constexpr (values) L::store(sums + width + column + b * L::count, value[b]);
    }
  }

  static constexpr std::int64_t cache_line = 64 / static_cast<std::int64_t>(sizeof(T));
  std::uint32_t *own_, *other_;
  T* weight_;
  const T *own_rows_ = nullptr, *other_rows_ = nullptr;
  T* sums_ = nullptr;
  std::int64_t width_ = 0, count_ = 0;
  std::uint32_t no_token_ = 0;
  bool exact_ = false;
};

}  // namespace tern::kernels
