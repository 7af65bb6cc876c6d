// gelu(x) = x Phi(x), Phi the normal distribution (Hendrycks and Gimpel 2016), and its slope Phi(x) + x phi(x).
// For bfloat16 data both come from one approximate exponential and one approximate reciprocal: Abramowitz and
// Stegun 7.1.26, absolute error below 5e-7, 13 and 15 instructions.
#pragma once

#include "kernels/cuda/block.cuh"

namespace tern::kernels {

/// 2^x and 1 / x with a relative error below 2e-7 (PTX ISA, ex2.approx and rcp.approx).
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// bell = e^(-x^2 / 2), tail = Phi(-|x|).
struct NormalTail {
  float bell, tail;
};
__device__ __forceinline__ NormalTail fast_normal_tail(float x) {
  const float bell = fast_exp2(x * x * -0.72134752044f);               // log2(e) / 2
  const float t = fast_reciprocal(fmaf(fabsf(x), 0.23164189f, 1.0f));  // 0.3275911 / sqrt 2
  float p = 0.5307027145f;                                             // half of the published coefficients
  p = fmaf(p, t, -0.7265760135f);
  p = fmaf(p, t, 0.7107068705f);
  p = fmaf(p, t, -0.142248368f);
  p = fmaf(p, t, 0.127414796f);
  return {bell, p * t * bell};
}

__device__ __forceinline__ float fast_gelu(float x) {
  const NormalTail normal = fast_normal_tail(x);
  return fmaf(-fabsf(x), normal.tail, fmaxf(x, 0.0f));  // x - x tail above 0, x tail below
}
struct GeluAndSlope {
  float value, slope;
};
__device__ __forceinline__ GeluAndSlope fast_gelu_and_slope(float x) {
  const NormalTail normal = fast_normal_tail(x);
  const float below = x < 0.0f ? normal.tail : 1.0f - normal.tail;
  return {x * below, fmaf(x * 0.39894228040f, normal.bell, below)};
}

template <class T>
__device__ __forceinline__ Accumulate<T> gelu(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return fast_gelu(x);
  else if constexpr (std::is_same_v<T, float>)
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  else
    return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440));
}
template <class T>
__device__ __forceinline__ Accumulate<T> gelu_slope(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return fast_gelu_and_slope(x).slope;
  else if constexpr (std::is_same_v<T, float>)
    return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * expf(-0.5f * x * x);
  else
    return 0.5 * (1.0 + erf(x * 0.70710678118654752440)) + x * 0.39894228040143267794 * exp(-0.5 * x * x);
}

}  // namespace tern::kernels
