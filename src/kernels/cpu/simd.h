// Vectors of the widest register of each instruction set (GCC vector extensions) and the functions that the
// attention kernels need. Everything is in an unnamed namespace: each instruction set's objects keep their own
// copy.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <immintrin.h>

#include "tern/device.h"

namespace tern::kernels {
namespace {

/// For exponentials and logarithms in base 2.
constexpr double log2_e = 1.44269504088896340736, ln_2 = 0.69314718055994530942;

template <class T, Isa isa>
struct Simd {
  static constexpr int bytes = isa == Isa::v4 ? 64 : isa == Isa::v3 ? 32 : 16;
  static constexpr int lanes = bytes / static_cast<int>(sizeof(T));
  using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  typedef T Vector __attribute__((vector_size(bytes)));
  typedef Integer Integers __attribute__((vector_size(bytes)));
};
template <class T, Isa isa>
using Vector = typename Simd<T, isa>::Vector;

template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> load(const T* from) {
  Vector<T, isa> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T, Isa isa>
[[gnu::always_inline]] inline void store(T* to, Vector<T, isa> value) {
  std::memcpy(to, &value, sizeof value);
}

template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> broadcast(T value) {
  return Vector<T, isa>{} + value;
}

/// The larger lane by lane. A NaN in `b` stays, a NaN in `a` is passed over.
template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> larger(Vector<T, isa> a, Vector<T, isa> b) {
  return a > b ? a : b;
}

/// Lane l gets lane (l + distance) % lanes.
template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> rotate_lanes(Vector<T, isa> x, int distance) {
  constexpr int lanes = Simd<T, isa>::lanes;
  typename Simd<T, isa>::Integers from;
  for (int lane = 0; lane < lanes; ++lane) from[lane] = (lane + distance) % lanes;
  return __builtin_shuffle(x, from);
}

template <class T, Isa isa>
[[gnu::always_inline]] inline T largest_lane(Vector<T, isa> x) {
#pragma GCC unroll 4
  for (int half = Simd<T, isa>::lanes / 2; half > 0; half /= 2) {
    x = larger<T, isa>(rotate_lanes<T, isa>(x, half), x);
  }
  return x[0];
}

template <class T, Isa isa>
[[gnu::always_inline]] inline T sum_lanes(Vector<T, isa> x) {
#pragma GCC unroll 4
  for (int half = Simd<T, isa>::lanes / 2; half > 0; half /= 2) x += rotate_lanes<T, isa>(x, half);
  return x[0];
}

template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> square_root(Vector<T, isa> x) {
  for (int lane = 0; lane < Simd<T, isa>::lanes; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
}

/// 2^x. float: 2^round(x) through the exponent bits times a polynomial of degree 5 (relative minimax on [-1/2,
/// 1/2], 7.5e-8; with rounding below 2e-7); x below -126 counts as -126 and x must not exceed 126; NaN stays.
template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> power_of_two(Vector<T, isa> x) {
  if constexpr (std::is_same_v<T, float>) {
    using Words = Vector<std::uint32_t, isa>;  // a diverged run's values may wrap around
    const auto constant = [](float value) { return broadcast<T, isa>(value); };
    x = larger<T, isa>(constant(-126.0f), x);
    const Vector<T, isa> shifted = x + 0x1.8p23f;  // the integer part moves to the lowest mantissa bits
    const Vector<T, isa> f = x - (shifted - 0x1.8p23f);
    Vector<T, isa> p = constant(1.3276471983e-3f);
    p = p * f + 9.6755413343e-3f;
    p = p * f + 5.5507132735e-2f;
    p = p * f + 2.4022119724e-1f;
    p = p * f + 6.9314696706e-1f;
    p = p * f + 1.0000000717f;
    return reinterpret_cast<Vector<T, isa>>(reinterpret_cast<Words>(p) +
                                            (reinterpret_cast<Words>(shifted) << 23));
  } else {
    for (int lane = 0; lane < Simd<T, isa>::lanes; ++lane) x[lane] = std::exp2(x[lane]);
    return x;
  }
}

/// 1 - arccos(s) / pi for s in [-1, 1], with a small relative error at both ends. float: arccos(|s|) / pi =
/// sqrt(1 - |s|) times a polynomial of degree 7 (relative minimax, 1.5e-8).
template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> agreement(Vector<T, isa> s) {
  if constexpr (std::is_same_v<T, float>) {
    const Vector<T, isa> x = s < 0.0f ? -s : s;
    Vector<T, isa> p = broadcast<T, isa>(-3.9898777271e-4f);
    p = p * x + 2.1131378484e-3f;
    p = p * x - 5.4256244806e-3f;
    p = p * x + 9.8239189011e-3f;
    p = p * x - 1.5967757114e-2f;
    p = p * x + 2.8322358116e-2f;
    p = p * x - 6.8308886694e-2f;
    p = p * x + 4.9999999272e-1f;
    const Vector<T, isa> angle = p * square_root<T, isa>(1.0f - x);
    return s < 0.0f ? angle : 1.0f - angle;
  } else {
    constexpr double inverse_pi = 0.31830988618379067154;
    for (int lane = 0; lane < Simd<T, isa>::lanes; ++lane) s[lane] = std::acos(-s[lane]) * inverse_pi;
    return s;
  }
}

/// x^exponent for exponent >= 0 by squaring.
template <class T, Isa isa>
[[gnu::always_inline]] inline Vector<T, isa> integer_power(Vector<T, isa> x, int exponent) {
  Vector<T, isa> result = broadcast<T, isa>(1);
  for (; exponent > 1; exponent >>= 1) {
    if (exponent & 1) result *= x;
    x *= x;
  }
  return exponent ? result * x : result;
}

/// Products of the low halves of 64-bit lanes; the high halves do not count.
template <Isa isa>
[[gnu::always_inline]] inline Vector<std::uint64_t, isa> multiply_low_halves(Vector<std::uint64_t, isa> a,
                                                                             Vector<std::uint64_t, isa> b) {
  using V = Vector<std::uint64_t, isa>;
  if constexpr (isa == Isa::v4) {
    constexpr __mmask8 all = 0xFF;  // the form without a mask reads an undefined register and warns
    return reinterpret_cast<V>(
        _mm512_maskz_mul_epu32(all, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  } else if constexpr (isa == Isa::v3) {
    return reinterpret_cast<V>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  } else {
    return reinterpret_cast<V>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
  }
}

/// Lanes of all zeros or all ones from as many bytes. (The compiler's conversion goes lane by lane.)
template <class T, Isa isa>
[[gnu::always_inline]] inline typename Simd<T, isa>::Integers widen_flags(const std::int8_t* flags) {
  using Integers = typename Simd<T, isa>::Integers;
  constexpr bool is_float = sizeof(T) == 4;
  __m128i bytes{};
  std::memcpy(&bytes, flags, Simd<T, isa>::lanes);
  if constexpr (isa == Isa::v4) {  // with masks, as above
    if constexpr (is_float) {
      return reinterpret_cast<Integers>(_mm512_maskz_cvtepi8_epi32(__mmask16{0xFFFF}, bytes));
    } else {
      return reinterpret_cast<Integers>(_mm512_maskz_cvtepi8_epi64(__mmask8{0xFF}, bytes));
    }
  } else if constexpr (isa == Isa::v3) {
    if constexpr (is_float) {
      return reinterpret_cast<Integers>(_mm256_cvtepi8_epi32(bytes));
    } else {
      return reinterpret_cast<Integers>(_mm256_cvtepi8_epi64(bytes));
    }
  } else {
    if constexpr (is_float) {
      return reinterpret_cast<Integers>(_mm_cvtepi8_epi32(bytes));
    } else {
      return reinterpret_cast<Integers>(_mm_cvtepi8_epi64(bytes));
    }
  }
}

}  // namespace
}  // namespace tern::kernels
