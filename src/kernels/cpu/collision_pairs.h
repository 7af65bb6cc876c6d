// Gradients of pairs of colliding rows, one row after another: the partners of a row are read, its own sums
// stay in registers.
//
// A row of queries holds [q | dy], a row of keys [k | v], each part padded with zeros to whole vectors; row
// `length` is all zero and stands for "no token". A row of sums holds [dq] or [dk | dv] with the scales of one
// hash left out.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/cpu/collision_lists.h"
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

/// A row and one of its partners.
struct Pair {
  std::uint32_t own, other;
};

/// Rows [x | y] of one side meet rows [z | u] of the other: x's sum gets (y . u) z, weighted by the exact
/// weight of x . z if asked, and with `values` (rows of keys) also u.
template <class T, Isa isa, bool values>
class PairSums {
 public:
  using L = Lanes<T, isa>;
  // The rows of a step are weighed, then added from the first cache, while those `ahead` pairs later are on
  // their way to it, and their common row's neighbour `own_ahead` rows later is.
  static constexpr std::int64_t step = 16, ahead = 16, own_ahead = 4;

  /// Row `no_token` of both sides is all zero.
  PairSums(const T* own, const T* other, T* sums, std::int64_t width, std::int64_t no_token, bool exact)
      : own_rows_(own),
        other_rows_(other),
        sums_(sums),
        width_(width),
        no_token_(static_cast<std::uint32_t>(no_token)),
        exact_(exact) {}

  /// Adds `count` pairs, pairs of one row one after another; the list goes on for ahead + step pairs.
  void add(const Pair* pairs, std::int64_t count) {
    const std::int64_t vectors = width_ / L::count;
    with_vector_count<isa>(vectors, [&](auto fixed) {
      for (std::int64_t p = 0; p < count; p += step) {
        weigh<fixed()>(pairs + p, vectors);
        update<fixed()>(pairs + p, std::min(count - p, step), vectors);
      }
    });
  }

  /// Adds all pairs of a list with room for ahead + step more.
  void add_all(Pair* pairs, std::int64_t count) {
    std::fill_n(pairs + count, ahead + step, Pair{no_token_, no_token_});
    add(pairs, count);
  }

 private:
  static constexpr std::int64_t cache_line = 64 / static_cast<std::int64_t>(sizeof(T));

  template <int fixed>
  void weigh(const Pair* pairs, std::int64_t vectors) {
    const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
    for (std::int64_t p = 0; p < step; p += L::count) L::store(weight_ + p, dots(pairs + p, width, count));
    if (!exact_) return;
    for (std::int64_t p = 0; p < step; p += L::count) {
      L::store(weight_ + p, L::load(weight_ + p) * ExactWeight<T, isa>::of(dots(pairs + p, 0, count)));
    }
  }

  /// Products of the rows of the first pairs, of their parts from column `part` on.
  [[gnu::always_inline]] inline typename L::Vector dots(const Pair* pairs, std::int64_t part,
                                                        std::int64_t vectors) const {
    const std::int64_t width = vectors * L::count;
    typename L::Vector product[L::count];
#pragma GCC unroll 16
    for (int u = 0; u < L::count; ++u) {
      const T* own = own_rows_ + pairs[u].own * 2 * width + part;
      const T* other = other_rows_ + pairs[u].other * 2 * width + part;
      const T* later = other_rows_ + pairs[u + ahead].other * 2 * width + part;
      for (std::int64_t c = 0; c < width; c += cache_line) __builtin_prefetch(later + c);
      product[u] = L::load(own) * L::load(other);
      for (std::int64_t c = L::count; c < width; c += L::count) {
        product[u] += L::load(own + c) * L::load(other + c);
      }
    }
    return L::sum_each(product);
  }

  template <int fixed>
  void update(const Pair* pairs, std::int64_t end, std::int64_t vectors) {
    constexpr int block = fixed > 0 ? std::min(fixed, 4) : 1;
    const std::int64_t count = fixed > 0 ? fixed : vectors;
    for (std::int64_t first = 0, last = 0; first < end; first = last) {
      const std::uint32_t row = pairs[first].own;
      while (last < end && pairs[last].own == row) ++last;
      ask_for(row + own_ahead, count * L::count);
      T* sums = sums_ + row * (values ? 2 : 1) * count * L::count;
      for (std::int64_t v = 0; v < count; v += block) {
        add_others<block>(pairs + first, last - first, weight_ + first, v, count, sums);
      }
    }
  }

  /// Asks for a row of the own side and its sums; there need not be such a row.
  [[gnu::always_inline]] inline void ask_for(std::int64_t row, std::int64_t width) const {
    const T* own = own_rows_ + row * 2 * width;
    const T* sums = sums_ + row * (values ? 2 : 1) * width;
    for (std::int64_t c = exact_ ? 0 : width; c < 2 * width; c += cache_line) __builtin_prefetch(own + c);
    for (std::int64_t c = 0; c < (values ? 2 : 1) * width; c += cache_line) __builtin_prefetch(sums + c, 1);
  }

  /// Adds the vectors v .. v + block - 1 of `count` pairs to the sums of their common row.
  template <int block>
  [[gnu::always_inline]] inline void add_others(const Pair* pairs, std::int64_t count, const T* weights,
                                                std::int64_t v, std::int64_t vectors, T* sums) const {
    const std::int64_t width = vectors * L::count, column = v * L::count;
    typename L::Vector sum[block], value[block];
#pragma GCC unroll 4
    for (int b = 0; b < block; ++b) {
      sum[b] = L::load(sums + column + b * L::count);
      if constexpr (values) value[b] = L::load(sums + width + column + b * L::count);
    }
    for (std::int64_t p = 0; p < count; ++p) {
      const auto weight = L::broadcast(weights[p]);
      const T* other = other_rows_ + pairs[p].other * 2 * width + column;
      const T* later = other_rows_ + pairs[p + ahead].other * 2 * width + column;
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

  alignas(64) T weight_[step];
  const T *own_rows_, *other_rows_;
  T* sums_;
  std::int64_t width_;
  std::uint32_t no_token_;
  bool exact_;
};

/// Pairs by tiles of the other side's rows. A tile fits the cache that the cores share: partners of a long
/// sequence's rows come from memory, unless those of many rows in one tile are visited together.
template <class T, Isa isa>
class PairTiles {
 public:
  /// For sides of at most `length` rows [x | y].
  PairTiles(Layout& layout, std::int64_t length, std::int64_t width)
      : bits_(tile_bits(width)),
        tiles_(tiled(length, width) ? (length >> bits_) + 1 : 0),
        capacity_((visits << bits_) + gap),
        counts_(layout.take<std::int64_t>(tiles_)),
        pairs_(layout.take<Pair>(tiles_ * capacity_)) {}
  void clear() const { std::fill_n(counts_, tiles_, 0); }

  /// Whether the rows of a side exceed the cache by so much that tiles pay.
  static bool tiled(std::int64_t length, std::int64_t width) { return length > 2 * tile_rows(width); }
  static std::int64_t tile_rows(std::int64_t width) { return std::int64_t{1} << tile_bits(width); }

  /// Lists pairs; those of a full list are added.
  template <class Sums>
  void append(const Pair* pairs, std::int64_t count, Sums& sums) const {
    static_assert(gap >= Sums::ahead + Sums::step);
    for (std::int64_t p = 0; p < count; ++p) {
      const std::int64_t tile = pairs[p].other >> bits_;
      pairs_[tile * capacity_ + counts_[tile]++] = pairs[p];
      if (counts_[tile] == capacity_ - gap) [[unlikely]]
        add_tile(tile, sums);
    }
  }

  template <class Sums>
  void finish(Sums& sums) const {
    for (std::int64_t tile = 0; tile < tiles_; ++tile) add_tile(tile, sums);
  }

 private:
  // Bytes of a tile (measured), and pairs of a list for each row of it: so many share its way from memory.
  static constexpr std::int64_t tile_bytes = 8 << 20, visits = 8;
  // Pairs between lists, for what follows a list's end; odd cache lines, as all lists grow at the same time.
  static constexpr std::int64_t gap = 40;

  static int tile_bits(std::int64_t width) {
    const std::int64_t rows = tile_bytes / (2 * width * static_cast<std::int64_t>(sizeof(T)));
    return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(rows) | 1)) - 1;
  }

  template <class Sums>
  void add_tile(std::int64_t tile, Sums& sums) const {
    sums.add_all(pairs_ + tile * capacity_, counts_[tile]);
    counts_[tile] = 0;
  }

  int bits_;
  std::int64_t tiles_, capacity_;
  std::int64_t* counts_;
  Pair* pairs_;
};

/// Pairs as they are found, one row after another.
template <class T, Isa isa, bool values>
class PairList {
 public:
  using Sums = PairSums<T, isa, values>;

  /// Adds to `sums` in the order of the rows, or tile by tile.
  PairList(const Sums& sums, const PairTiles<T, isa>* tiles) : sums_(sums), tiles_(tiles) {}

  /// What is appended from here on are partners of `row`, by at most hash_batch calls of append.
  [[gnu::always_inline]] inline void start_row(std::uint32_t row) {
    row_ = row;
    if (count_ > full) [[unlikely]]
      work_off_most();
  }

  /// Few partners: all entries are written whatever the count, and the count decides what stays.
  [[gnu::always_inline]] inline void append(const Partners& partners) {
    for (std::uint32_t u = 0; u < Partners::most; ++u) pairs_[count_ + u] = {row_, partners.others[u]};
    count_ += partners.count;
  }

  /// Any number of partners.
  void append_many(const std::uint32_t* others, std::int64_t count) {
    for (std::int64_t t = 0; t < count; ++t) {
      pairs_[count_++] = {row_, others[t]};
      if (count_ > full) work_off_most();
    }
  }

  /// Works off all pairs.
  void finish() {
    if (tiles_ == nullptr) {
      sums_.add_all(pairs_, count_);
    } else {
      tiles_->append(pairs_, count_, sums_);
      tiles_->finish(sums_);
    }
    count_ = 0;
  }

 private:
  static constexpr std::int64_t capacity = 512;
  static constexpr std::int64_t full = capacity - hash_batch * Partners::most;  ///< a row's short lists fit

  /// Works off all but the last pairs, whose rows may not have arrived yet.
  [[gnu::noinline]] void work_off_most() {
    const std::int64_t pairs = (count_ - Sums::ahead) / Sums::step * Sums::step;
    if (tiles_ == nullptr) {
      sums_.add(pairs_, pairs);
    } else {
      tiles_->append(pairs_, pairs, sums_);
    }
    count_ -= pairs;
    std::copy_n(pairs_ + pairs, count_, pairs_);
  }

  alignas(64) Pair pairs_[capacity + Sums::ahead + Sums::step];
  Sums sums_;
  const PairTiles<T, isa>* tiles_;
  std::int64_t count_ = 0;
  std::uint32_t row_ = 0;
};

}  // namespace tern::kernels
