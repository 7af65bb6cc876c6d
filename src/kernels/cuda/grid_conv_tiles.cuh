// What the convolution's kernels on tensor cores share.
#pragma once

#include "kernels/cuda/grid_conv_tiles.h"
#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {
namespace {

/// A block has a tile of 8 tokens, a warp each, and 64 columns for 16 channels at a time.
constexpr int threads_per_block = 256, tile_tokens = threads_per_block / warp_lanes;
constexpr int tile_columns = 64, channels = 16;
constexpr int place_rows = tile_tokens + 2;  ///< of a tile and the tokens beside it

/// A token and which of it and its neighbours, token - 1 .. token + 1, belong to its sequence.
struct TokenPlace {
  std::int64_t token;
  bool is_used, is_near[3];
};
__device__ __forceinline__ TokenPlace place_of(const Sequences& sequences, std::int64_t token) {
  const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
  const bool is_used = range.index < sequences.count;
  return {token, is_used, {token > range.begin, true, token + 1 < range.begin + range.length}};
}

/// relu of two neighbours; a NaN passes.
__device__ __forceinline__ std::uint32_t relu_pair(std::uint32_t pair) {
  std::uint32_t out;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(pair), "r"(0u));
  return out;
}

inline unsigned pieces(std::int64_t count, std::int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace
}  // namespace tern::kernels
