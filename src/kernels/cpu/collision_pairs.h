// Gradients of pairs of colliding rows, one row after another: the partners of a row are read, its own sums
// stay in registers.
//
// A row of queries holds [q | dy], a row of keys [k | v], each part padded with zeros to whole vectors; row
// `length` is all zero and stands for "no token". A row of sums holds [dq] or [dk | dv] with the scales of one
// hash left out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/collision_lists.h"
#include "kernels/cpu/lanes.h"

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

  /// Row `no_token` of both sides is all zero.
  PairList(const T* own, const T* other, T* sums, std::int64_t width, std::int64_t no_token, bool exact)
      : own_rows_(own),
        other_rows_(other),
        sums_(sums),
        width_(width),
        no_token_(static_cast<std::uint32_t>(no_token)),
        exact_(exact) {}

  /// What is appended from here on are partners of `row`, by at most hash_batch calls of append.
  [[gnu::always_inline]] inline void start_row(std::uint32_t row) {
    end_row();
    row_ = row;
    if (count_ > full) [[unlikely]]
      work_off_most();
  }

  /// Few partners: all entries are written whatever the count, and the count decides what stays.
  [[gnu::always_inline]] inline void append(const Partners& partners) {
    for (std::uint32_t u = 0; u < Partners::most; ++u) other_[count_ + u] = partners.others[u];
    count_ += partners.count;
  }

  /// Any number of partners.
  void append_many(const std::uint32_t* others, std::int64_t count) {
    for (std::int64_t t = 0; t < count; ++t) {
      other_[count_++] = others[t];
      if (count_ > full) work_off_most();
    }
  }

  /// Works off all pairs.
  void finish() {
    end_row();
    std::fill(own_ + count_, own_ + count_ + ahead + step, no_token_);
    std::fill(other_ + count_, other_ + count_ + ahead + step, no_token_);
    work_off(count_);
    count_ = row_begin_ = 0;
  }

 private:
  // The rows of a step are weighed, then added from the first cache, while those `ahead` pairs later are on
  // their way to it.
  static constexpr std::int64_t step = 16, ahead = 16, capacity = 512;
  static constexpr std::int64_t full = capacity - hash_batch * Partners::most;  ///< a row's short lists fit
  static constexpr std::int64_t cache_line = 64 / static_cast<std::int64_t>(sizeof(T));

  void work_off(std::int64_t pairs) {
    const std::int64_t vectors = width_ / L::count;
    with_vector_count<isa>(vectors, [&](auto fixed) {
      for (std::int64_t p = 0; p < pairs; p += step) {
        weigh<fixed()>(p, vectors);
        update<fixed()>(p, std::min(pairs, p + step), vectors);
      }
    });
  }

  [[gnu::always_inline]] inline void end_row() {
    for (std::int64_t p = row_begin_; p < count_; ++p) own_[p] = row_;
    row_begin_ = count_;
  }

  /// Works off all but the last pairs, whose rows may not have arrived yet.
  [[gnu::noinline]] void work_off_most() {
    end_row();
    const std::int64_t pairs = (count_ - ahead) / step * step;
    work_off(pairs);
    count_ -= pairs;
    row_begin_ = count_;
    std::copy_n(own_ + pairs, count_, own_);
    std::copy_n(other_ + pairs, count_, other_);
  }

  template <int fixed>
  void weigh(std::int64_t begin, std::int64_t vectors) {
    const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
    for (std::int64_t p = 0; p < step; p += L::count) L::store(weight_ + p, dots(begin + p, width, count));
    if (!exact_) return;
    for (std::int64_t p = 0; p < step; p += L::count) {
      L::store(weight_ + p, L::load(weight_ + p) * ExactWeight<T, isa>::of(dots(begin + p, 0, count)));
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
      const T* later = other_rows_ + other_[p + u + ahead] * 2 * width + part;
      for (std::int64_t c = 0; c < width; c += cache_line) __builtin_prefetch(later + c);
      product[u] = L::load(own) * L::load(other);
      for (std::int64_t c = L::count; c < width; c += L::count) {
        product[u] += L::load(own + c) * L::load(other + c);
      }
    }
    return L::sum_each(product);
  }

  template <int fixed>
  void update(std::int64_t begin, std::int64_t end, std::int64_t vectors) {
    constexpr int block = fixed > 0 ? std::min(fixed, 4) : 1;
    const std::int64_t count = fixed > 0 ? fixed : vectors;
    for (std::int64_t first = begin, last = begin; first < end; first = last) {
      const std::uint32_t row = own_[first];
      while (last < end && own_[last] == row) ++last;
      T* sums = sums_ + row * (values ? 2 : 1) * count * L::count;
      const T* weights = weight_ + (first - begin);
      for (std::int64_t v = 0; v < count; v += block) add_others<block>(first, last, weights, v, count, sums);
    }
  }

  /// Adds the vectors v .. v + block - 1 of pairs first .. last - 1 to the sums of their common row.
  template <int block>
  [[gnu::always_inline]] inline void add_others(std::int64_t first, std::int64_t last, const T* weights,
                                                std::int64_t v, std::int64_t vectors, T* sums) const {
    const std::int64_t width = vectors * L::count, column = v * L::count;
    typename L::Vector sum[block], value[block];
#pragma GCC unroll 4
    for (int b = 0; b < block; ++b) {
      sum[b] = L::load(sums + column + b * L::count);
      if constexpr (values) value[b] = L::load(sums + width + column + b * L::count);
    }
    for (std::int64_t p = first; p < last; ++p) {
      const auto weight = L::broadcast(weights[p - first]);
      const T* other = other_rows_ + other_[p] * 2 * width + column;
      const T* later = other_rows_ + other_[p + ahead] * 2 * width + column;
      for (int c = 0; c < block * L::count; c += cache_line) __builtin_prefetch(later + c);
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

  alignas(64) std::uint32_t own_[capacity + ahead + step], other_[capacity + ahead + step];
  alignas(64) T weight_[step];
  const T *own_rows_, *other_rows_;
  T* sums_;
  std::int64_t width_, count_ = 0, row_begin_ = 0;
  std::uint32_t no_token_, row_ = 0;
  bool exact_;
};

}  // namespace tern::kernels
