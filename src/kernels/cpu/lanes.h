// Explicit vectors of one instruction set. GCC's vector types carry the arithmetic; only sign masks need
// intrinsics. Every entity carries the Isa tag, so that objects compiled for different levels never share a
// symbol.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include <immintrin.h>

#include "tern/device.h"

namespace tern::kernels {

template <class T, Isa isa>
struct Lanes {
  static constexpr int bytes = isa == Isa::v4 ? 64 : isa == Isa::v3 ? 32 : 16;
  static constexpr int count = bytes / static_cast<int>(sizeof(T));
  using Word = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  typedef T Vector __attribute__((vector_size(bytes)));
  typedef Word Words __attribute__((vector_size(bytes)));
  typedef T Unaligned __attribute__((vector_size(bytes), aligned(alignof(T)), may_alias));

  /// Width of a row that is padded to whole vectors.
  [[gnu::always_inline]] static inline std::int64_t padded(std::int64_t width) {
    return (width + count - 1) / count * count;
  }

  [[gnu::always_inline]] static inline Vector load(const T* p) {
    return *reinterpret_cast<const Unaligned*>(p);
  }
  [[gnu::always_inline]] static inline void store(T* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
  [[gnu::always_inline]] static inline Vector broadcast(T value) { return Vector{} + value; }

  /// Bit l is set where lane l is above zero.
  [[gnu::always_inline]] static inline std::uint32_t positive(Vector v) {
    if constexpr (isa == Isa::v4 && sizeof(T) == 4) {
      return _mm512_cmp_ps_mask(v, Vector{}, _CMP_GT_OQ);
    } else if constexpr (isa == Isa::v4) {
      return _mm512_cmp_pd_mask(v, Vector{}, _CMP_GT_OQ);
    } else if constexpr (isa == Isa::v3 && sizeof(T) == 4) {
      return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, Vector{}, _CMP_GT_OQ)));
    } else if constexpr (isa == Isa::v3) {
      return static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(v, Vector{}, _CMP_GT_OQ)));
    } else if constexpr (sizeof(T) == 4) {
      return static_cast<std::uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps(v, Vector{})));
    } else {
      return static_cast<std::uint32_t>(_mm_movemask_pd(_mm_cmpgt_pd(v, Vector{})));
    }
  }

  /// Rows become columns.
  [[gnu::always_inline]] static inline void transpose(Vector (&v)[count]) { transpose_blocks<1>(v); }

  /// Lane l of the result is the sum over all lanes of v[l]; v is overwritten.
  [[gnu::always_inline]] static inline Vector sum_each(Vector (&v)[count]) { return fold<count / 2>(v); }

 private:
  template <int... lane>
  [[gnu::always_inline]] static inline void exchange(Vector& a, Vector& b, std::integer_sequence<int, lane...>,
                                                     auto stride) {
    constexpr int s = decltype(stride)::value;
    const Vector low = __builtin_shuffle(a, b, Words{((lane & s) != 0 ? lane - s + count : lane)...});
    b = __builtin_shuffle(a, b, Words{((lane & s) != 0 ? lane + count : lane + s)...});
    a = low;
  }

  template <int s>
  [[gnu::always_inline]] static inline void transpose_blocks(Vector (&v)[count]) {
    if constexpr (s < count) {
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) {
        if ((i & s) != 0) continue;
        exchange(v[i], v[i + s], std::make_integer_sequence<int, count>{}, std::integral_constant<int, s>{});
      }
      transpose_blocks<2 * s>(v);
    }
  }

  // Adds the two halves of each block of 2 s lanes; blocks of `a` come first in the result, then those of `b`.
  template <int... lane>
  [[gnu::always_inline]] static inline Vector halve(Vector a, Vector b, std::integer_sequence<int, lane...>,
                                                    auto half) {
    constexpr int s = decltype(half)::value;
    return __builtin_shuffle(a, b, Words{(lane / s * 2 * s + lane % s)...}) +
           __builtin_shuffle(a, b, Words{(lane / s * 2 * s + lane % s + s)...});
  }

  template <int s>
  [[gnu::always_inline]] static inline Vector fold(Vector (&v)[count]) {
    if constexpr (s == 0) {
      return v[0];
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < s; ++i) {
        v[i] = halve(v[2 * i], v[2 * i + 1], std::make_integer_sequence<int, count>{},
                     std::integral_constant<int, s>{});
      }
      return fold<s / 2>(v);
    }
  }
};

/// Calls body with the number of vectors as a compile-time constant where a fast form exists, else with 0.
template <Isa isa, class Body>
void with_vector_count(std::int64_t vectors, const Body& body) {
  switch (vectors) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    case 8:
      return body(std::integral_constant<int, 8>{});
    default:
      return body(std::integral_constant<int, 0>{});
  }
}

}  // namespace tern::kernels
