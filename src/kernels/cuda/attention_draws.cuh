// Attention dropout in the layout of tensor-core fragments: ten rounds of Philox for each 16 weights of a lane.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_scores.cuh"

namespace tern::kernels {

/// Byte `selector nibble % 8` of (high, low), or its top bit eight times where the nibble's top bit is set.
__device__ __forceinline__ std::uint32_t permute_bytes(std::uint32_t low, std::uint32_t high,
                                                       std::uint32_t selector) {
  std::uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
  return bytes;
}

/// Which of a 16 x 16 block's weights in this lane are kept: the top bit of each byte. One word for each parity
/// of the column.
struct KeptBits {
  std::uint32_t word[2];
};

/// Draws for 16 `row_tiles` rows of a warp by 16 columns. Rows are queries, or keys where `transposed`. Two row
/// tiles hold their rows in the order of block_row(), which gives each lane all 16 weights of one stream block;
/// with one tile, two lanes draw the same block and use a half each.
template <bool transposed, int row_tiles>
class WeightDraws {
 public:
  __device__ WeightDraws() {}
  __device__ WeightDraws(const ScoreRule& rule, std::int64_t sample, int head, int warp_row)
      : sample_(static_cast<std::uint32_t>(sample)),
        step_(*rule.step),
        head_(static_cast<std::uint32_t>(head)),
        row_patch_(static_cast<std::uint32_t>(warp_row / 4 +
                                              static_cast<int>(threadIdx.x) % 32 / (row_tiles > 1 ? 4 : 8))) {}

  __device__ __forceinline__ void draw(const ScoreRule& rule, int column, KeptBits (&kept)[row_tiles]) const {
    const std::uint32_t column_patch = static_cast<std::uint32_t>(column / 4) + threadIdx.x % 4;
    const std::uint32_t query = transposed ? column_patch : row_patch_,
                        key = transposed ? row_patch_ : column_patch;
    PhiloxWords words = {{query << 24 | key, head_ << 16 | query >> 8, sample_, step_}};
#pragma unroll
    for (int round = 0; round < philox_rounds; ++round) words = mix(words, rule.round_key[round]);
#pragma unroll
    for (std::uint32_t& word : words.word) {
      const std::uint32_t sum = (word & 0x7F7F7F7Fu) + rule.addend;
      word = (word & sum) | (rule.either & (word | sum));
    }
    constexpr int low = 1, high = 2;  // which bits of a word's number are the parities of column and row
    constexpr int column_bit = transposed ? high : low, row_bit = transposed ? low : high;
#pragma unroll
    for (int parity = 0; parity < 2; ++parity) {
      const std::uint32_t even_row = words.word[parity * column_bit],
                          odd_row = words.word[parity * column_bit + row_bit];
      if constexpr (row_tiles > 1) {
        kept[0].word[parity] = even_row;
        kept[1].word[parity] = odd_row;
      } else {
        kept[0].word[parity] = threadIdx.x & 4 ? odd_row : even_row;
      }
    }
  }

  /// Drops packed weights.
  static __device__ __forceinline__ void drop(Fragment& weights, const KeptBits& kept) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      weights.word[i] &= permute_bytes(kept.word[0], kept.word[1], 0xCC88u + 0x1111u * byte_of(i));
  }
  /// Whether accumulator x[i / 4][i % 4] of a block is kept.
  static __device__ __forceinline__ bool is_kept(const KeptBits& kept, int i) {
    return (kept.word[i % 2] & 0x80u << 8 * byte_of(i / 2)) != 0;
  }

 private:
  /// Byte of the weights in fragment word i: rows + 8 in words 1 and 3, columns + 8 in words 2 and 3.
  static constexpr std::uint32_t byte_of(int i) {
    return static_cast<std::uint32_t>(transposed ? i : i >> 1 | (i & 1) << 1);
  }
  static __device__ __forceinline__ PhiloxWords mix(const PhiloxWords& c, PhiloxKey key) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c.word[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * c.word[2];
    return {{static_cast<std::uint32_t>(product1 >> 32) ^ c.word[1] ^ key.low,
             static_cast<std::uint32_t>(product1),
             static_cast<std::uint32_t>(product0 >> 32) ^ c.word[3] ^ key.high,
             static_cast<std::uint32_t>(product0)}};
  }

  std::uint32_t sample_ = 0, step_ = 0, head_ = 0, row_patch_ = 0;
};

template <Scores scores, bool transposed, int row_tiles>
__device__ __forceinline__ WeightDraws<transposed, row_tiles> weight_draws(const ScoreRule& rule,
                                                                           const std::int64_t* samples,
                                                                           int sequence, int head,
                                                                           int warp_row) {
  if constexpr (scores == Scores::dropped_softmax)
    return {rule, samples[sequence], head, warp_row};
  else
    return {};
}

}  // namespace tern::kernels
