// What the kernels of random features share.
#pragma once

#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

/// Floats as integers of the same order; every float's is above 0.
__device__ __forceinline__ std::uint32_t ordered_bits(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered_bits(std::uint32_t bits) {
  return __uint_as_float((bits & 0x80000000u) != 0 ? bits & 0x7FFFFFFFu : ~bits);
}

/// A row of [tokens, heads, width] counted over tokens and heads.
struct FlatRow {
  std::int64_t token;
  int head;
};
__device__ __forceinline__ FlatRow flat_row(std::int64_t row, int heads) {
  return {row / heads, static_cast<int>(row % heads)};
}

/// Place of a row's sequence and head among tops.
__device__ __forceinline__ std::int64_t top_place(const Sequences& sequences, const FlatRow& row, int heads) {
  return std::int64_t{find_sequence(sequences, static_cast<int>(row.token)).index} * heads + row.head;
}

}  // namespace tern::kernels
