// Slices of the dropout stream for one row of attention weights: Philox over as many blocks at once as a vector
// has 64-bit lanes (ten rounds of Philox4x32; see tern/random.h for the definition).
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles.h"

namespace tern::kernels {
namespace {

/// out[2 lane], out[2 lane + 1] = the four words of block high << 32 | low[lane], in order. The upper halves of
/// the lanes hold rubbish between the rounds: products and the words' exclusive ors never read them.
template <Isa isa>
[[gnu::always_inline]] inline void draw_blocks(const RandomStream& stream, std::uint32_t sample,
                                               Vector<std::uint64_t, isa> low, std::uint32_t high,
                                               std::uint64_t* out) {
  using Words = Vector<std::uint64_t, isa>;
  constexpr int lanes = Simd<std::uint64_t, isa>::lanes;
  const auto constant = [](std::uint64_t value) { return broadcast<std::uint64_t, isa>(value); };
  Words word0 = low, word1 = constant(high), word2 = constant(sample), word3 = constant(*stream.step);
  PhiloxKey key = stream.key;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Words product0 = multiply_low_halves<isa>(word0, constant(0xD2511F53u));
    const Words product1 = multiply_low_halves<isa>(word2, constant(0xCD9E8D57u));
    word0 = (product1 >> 32) ^ word1 ^ constant(key.low);
    word1 = product1;
    word2 = (product0 >> 32) ^ word3 ^ constant(key.high);
    word3 = product0;
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  const Words first = (word0 & 0xFFFFFFFFu) | (word1 << 32), second = (word2 & 0xFFFFFFFFu) | (word3 << 32);
  typename Simd<std::int64_t, isa>::Integers lower, upper;
  for (int lane = 0; lane < lanes; ++lane) {
    lower[lane] = lane / 2 + (lane % 2) * lanes;
    upper[lane] = lower[lane] + lanes / 2;
  }
  store<std::uint64_t, isa>(out, __builtin_shuffle(first, second, lower));
  store<std::uint64_t, isa>(out + lanes, __builtin_shuffle(first, second, upper));
}

/// Draws for one key block: which stream blocks its keys touch, and a row of slices for any query.
template <Isa isa>
class KeepSlices {
 public:
  KeepSlices(Layout& layout, int most_keys)
      : blocks_(layout.take<std::uint64_t>(most_keys + block_step)),
        drawn_(layout.take<std::uint64_t>(2 * (most_keys + block_step))),
        slice_of_key_(layout.take<std::uint16_t>(most_keys)),
        gathered_(layout.take<std::uint16_t>(most_keys + block_step)) {}

  /// Keys at the original positions position[0 .. count - 1].
  void set_keys(const std::int32_t* position, int count) {
    count_ = count;
    block_count_ = 0;
    contiguous_ = true;
    for (int j = 0; j < count; ++j) {
      const auto block = static_cast<std::uint64_t>(position[j]) >> 3;
      if (block_count_ == 0 || blocks_[block_count_ - 1] != block) blocks_[block_count_++] = block;
      slice_of_key_[j] = static_cast<std::uint16_t>(8 * (block_count_ - 1) + (position[j] & 7));
      contiguous_ &= position[j] == position[0] + j;
    }
  }

  /// The slices of query position `query` for the keys, in order.
  const std::uint16_t* draw(const RandomStream& stream, std::int64_t sample, int head, std::int64_t query) {
    constexpr int lanes = Simd<std::uint64_t, isa>::lanes;
    const std::uint64_t row = dropout_block(head, query, 0);
    for (int block = 0; block < block_count_; block += lanes) {
      const Vector<std::uint64_t, isa> low = load<std::uint64_t, isa>(blocks_ + block) | (row & 0xFFFFFFFFu);
      draw_blocks<isa>(stream, static_cast<std::uint32_t>(sample), low, static_cast<std::uint32_t>(row >> 32),
                       drawn_ + 2 * block);
    }
    if (contiguous_) return slices() + slice_of_key_[0];
    for (int j = 0; j < count_; ++j) gathered_[j] = slices()[slice_of_key_[j]];
    return gathered_;
  }

 private:
  typedef std::uint16_t Slice __attribute__((may_alias));
  const Slice* slices() const { return reinterpret_cast<const Slice*>(drawn_); }

  std::uint64_t* blocks_;  ///< [block_count] position >> 3, ascending
  std::uint64_t* drawn_;   ///< [block_count, 2] words
  std::uint16_t* slice_of_key_;
  std::uint16_t* gathered_;
  int count_ = 0, block_count_ = 0;
  bool contiguous_ = true;
};

/// All bits set in the lanes whose slice is kept.
template <class T, Isa isa>
[[gnu::always_inline]] inline typename Simd<T, isa>::Integers kept_lanes(const std::uint16_t* slices,
                                                                         std::uint32_t threshold) {
  using Integers = typename Simd<T, isa>::Integers;
  typename Simd<T, isa>::Slices drawn;
  std::memcpy(&drawn, slices, sizeof drawn);
  return __builtin_convertvector(drawn, Integers) >= static_cast<typename Simd<T, isa>::Integer>(threshold);
}

}  // namespace
}  // namespace tern::kernels
