// Standard normals from the words of a Philox block, with the same bits on every device: Box-Muller on this
// project's own polynomials, each operation rounded on its own. Host files that include this are compiled
// without floating-point contraction; device code says so operation by operation.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tern/random.h"

namespace tern {

[[gnu::always_inline]] TERN_HOST_DEVICE inline float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
[[gnu::always_inline]] TERN_HOST_DEVICE inline float rounded_sum(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
[[gnu::always_inline]] TERN_HOST_DEVICE inline float rounded_root(float a) {
#ifdef __CUDA_ARCH__
  return __fsqrt_rn(a);
#else
  return std::sqrt(a);
#endif
}
/// a x + b with two roundings.
[[gnu::always_inline]] TERN_HOST_DEVICE inline float horner(float a, float x, float b) {
  return rounded_sum(rounded_product(a, x), b);
}

/// ln(u) for u in (0, 1): exponent and mantissa in [sqrt(1/2), sqrt(2)), then a polynomial of degree 9 in
/// mantissa - 1 (coefficients: Moshier, Cephes, logf; relative error below 2e-7).
[[gnu::always_inline]] TERN_HOST_DEVICE inline float natural_log(float u) {
  const auto bits = std::bit_cast<std::uint32_t>(u);
  const std::uint32_t shifted = bits - 0x3F3504F3u;
  const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float x = rounded_sum(std::bit_cast<float>((shifted & 0x007FFFFFu) + 0x3F3504F3u), -1.0f);
  float p = 7.0376836292e-2f;
  p = horner(p, x, -1.1514610310e-1f);
  p = horner(p, x, 1.1676998740e-1f);
  p = horner(p, x, -1.2420140846e-1f);
  p = horner(p, x, 1.4249322787e-1f);
  p = horner(p, x, -1.6668057665e-1f);
  p = horner(p, x, 2.0000714765e-1f);
  p = horner(p, x, -2.4999993993e-1f);
  p = horner(p, x, 3.3333331174e-1f);
  const float square = rounded_product(rounded_product(0.5f, x), x);
  const float cube = rounded_product(rounded_product(rounded_product(p, x), x), x);
  return rounded_sum(rounded_sum(rounded_sum(x, -square), cube), rounded_product(exponent, 0.69314718056f));
}

/// One Box-Muller pair: radius from `first`, angle from `second` (quadrant in its top two bits).
[[gnu::always_inline]] TERN_HOST_DEVICE inline void normal_pair(std::uint32_t first, std::uint32_t second,
                                                                float& a, float& b) {
  const float radius = rounded_root(rounded_product(-2.0f, natural_log(to_uniform(first))));
  // x in (-pi/4, pi/4): the angle inside its quadrant, minus pi/4
  const float cell = rounded_sum(static_cast<float>((second & 0x3FFFFFFFu) >> 7), 0.5f);
  const float x = horner(cell, 0x1p-23f * 1.57079632679f, -0.78539816340f);
  const float y = rounded_product(x, x);
  const float odd =
      horner(y, rounded_sum(8.3321608736e-3f, -rounded_product(y, 1.9515295891e-4f)), -1.6666654611e-1f);
  const float sine = horner(rounded_product(x, y), odd, x);
  const float even = horner(y, horner(y, 2.443315711e-5f, -1.388731625e-3f), 4.166664568e-2f);
  const float cosine =
      rounded_sum(rounded_sum(1.0f, -rounded_product(0.5f, y)), rounded_product(rounded_product(y, y), even));
  const bool swapped = (second & 0x40000000u) != 0, negative = (second & 0x80000000u) != 0;
  const float u = swapped ? -sine : cosine, v = swapped ? cosine : sine;
  a = rounded_product(radius, negative ? -u : u);
  b = rounded_product(radius, negative ? -v : v);
}

/// The four normals of a block.
[[gnu::always_inline]] TERN_HOST_DEVICE inline void normals_of(const PhiloxWords& words, float* drawn) {
  normal_pair(words.word[0], words.word[1], drawn[0], drawn[1]);
  normal_pair(words.word[2], words.word[3], drawn[2], drawn[3]);
}

}  // namespace tern
