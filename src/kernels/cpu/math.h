// Scalar functions whose loops vectorize, for float; the standard library for double.
// Included by kernel files only; internal linkage, because those files are compiled once for each instruction
// set.
#pragma once

#include <cmath>
#include <cstdint>

namespace tern::kernels {
namespace {

/// e^x: 2^round(x / ln 2) times a polynomial of degree 6 on the rest (relative error below 2e-7). x below
/// -87 counts as -87, x above 88 as 88; NaN stays.
[[gnu::always_inline]] inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504089f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low bits
  const std::int32_t exponent = __builtin_bit_cast(std::int32_t, shifted) - 0x4B400000;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * __builtin_bit_cast(float, (exponent + 127) << 23);
}
[[gnu::always_inline]] inline double exponential(double x) { return std::exp(x); }

/// erf(x), absolute error below 1.5e-7 (Abramowitz and Stegun 7.1.26).
[[gnu::always_inline]] inline float error_function(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float t = 1.0f / (1.0f + 0.3275911f * magnitude);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float y = 1.0f - p * t * exponential(-magnitude * magnitude);
  return x < 0 ? -y : y;
}
[[gnu::always_inline]] inline double error_function(double x) { return std::erf(x); }

template <class T>
[[gnu::always_inline]] inline T gelu(T x) {
  return T(0.5) * x * (T(1) + error_function(x * T(0.70710678118654752440)));
}
/// d gelu / dx = Phi(x) + x phi(x).
template <class T>
[[gnu::always_inline]] inline T gelu_slope(T x) {
  const T cumulative = T(0.5) * (T(1) + error_function(x * T(0.70710678118654752440)));
  return cumulative + x * T(0.39894228040143267794) * exponential(T(-0.5) * x * x);
}

}  // namespace
}  // namespace tern::kernels
