// What a product q . k means to attention: softmax with or without dropout, or the collision probability of
// YOSO.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace tern::kernels {

enum class Scores { softmax, dropped_softmax, bernoulli };

constexpr int philox_rounds = 10;

/// What the kernels need of SoftmaxOptions or BernoulliOptions.
struct ScoreRule {
  float scale = 1;           ///< of the gradients of q and k
  float exponent_scale = 1;  ///< softmax: weights are 2^(exponent_scale q . k - shift)
  float keep_scale = 1;      ///< dropout: kept weights are multiplied by this
  std::uint32_t addend = 0, either = 0;
  PhiloxKey round_key[philox_rounds] = {};
  const std::uint32_t* step = nullptr;
  int bits = 1;
  bool is_exact = false;  ///< bernoulli: the gradient is the derivative
};

inline ScoreRule score_rule(const SoftmaxOptions& options) {
  ScoreRule rule;
  rule.scale = static_cast<float>(options.scale);
  rule.exponent_scale = static_cast<float>(options.scale * 1.4426950408889634);
  if (rule.exponent_scale == 0) rule.exponent_scale = 1e-30f;  // masks are infinite: 0 times infinity is NaN
  const std::uint32_t threshold = weight_dropout_threshold(options.dropout.rate);
  rule.keep_scale = 256.0f / static_cast<float>(256 - threshold);
  // byte >= threshold, by the top bit of (byte % 128) + addend and that of the byte: either of them if the
  // threshold is at most 128, else both.
  rule.either = threshold <= 128 ? 0xFFFFFFFFu : 0u;
  rule.addend = 0x01010101u * (threshold <= 128 ? 128 - threshold : 256 - threshold);
  PhiloxKey key = options.dropout.stream.key;
  for (PhiloxKey& round : rule.round_key) {
    round = key;
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  rule.step = options.dropout.stream.step;
  return rule;
}
inline ScoreRule score_rule(const BernoulliOptions& options) {
  ScoreRule rule;
  rule.bits = options.bits;
  rule.is_exact = options.gradient == BernoulliGradient::exact;
  rule.scale = static_cast<float>(options.bits * (rule.is_exact ? 0.31830988618379067154 : 0.5));
  return rule;
}

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 - arccos(s) / pi, s clamped to +-(1 - 1e-6). With u = (1 - |s|) / 2, arccos(|s|) / pi is sqrt(u) times a
/// cubic in u (minimax, error 1.2e-5), and negative s reflect. `u` is left for the derivative.
__device__ __forceinline__ float agreement_of(float s, float& u) {
  u = fmaxf(__saturatef(fmaf(fabsf(s), -0.5f, 0.5f)), 5e-7f);
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(u));
  float cubic = fmaf(u, 0.07523855f, 0.02560729f);
  cubic = fmaf(u, cubic, 0.10961918f);
  cubic = fmaf(u, cubic, 0.63647348f);
  return 0.5f + copysignf(fmaf(-root, cubic, 0.5f), s);
}

/// x^exponent of each element, in place, by squaring.
template <int count>
__device__ __forceinline__ void raise_to(float (&x)[count], int exponent) {
  float base[count];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    base[i] = x[i];
    if (exponent == 0) x[i] = 1;
  }
  for (int bit = 30 - __clz(exponent); bit >= 0 && exponent > 0; --bit) {
    const bool is_set = exponent >> bit & 1;
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] *= x[i];
    if (is_set) {
#pragma unroll
      for (int i = 0; i < count; ++i) x[i] *= base[i];
    }
  }
}

/// p^bits of the products in `s`, in place.
template <int count>
__device__ __forceinline__ void collision_weights(float (&s)[count], int bits) {
#pragma unroll
  for (int i = 0; i < count; ++i) {
    float u;
    s[i] = agreement_of(s[i], u);
  }
  raise_to(s, bits);
}

/// s becomes p^bits, and `slope` is multiplied by what the rule takes for its derivative, up to rule.scale.
template <int count>
__device__ __forceinline__ void collision_slopes(float (&s)[count], float (&slope)[count],
                                                 const ScoreRule& rule) {
  if (!rule.is_exact) {
    collision_weights(s, rule.bits);
#pragma unroll
    for (int i = 0; i < count; ++i) slope[i] *= s[i];
    return;
  }
  float agreement[count];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    float u;
    agreement[i] = s[i] = agreement_of(s[i], u);
    slope[i] *= rsqrtf(4 * u * (1 - u));  // 1 / sqrt(1 - s^2)
  }
  raise_to(s, rule.bits - 1);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    slope[i] *= s[i];
    s[i] *= agreement[i];
  }
}

}  // namespace tern::kernels
