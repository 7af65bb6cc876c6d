// Philox over as many blocks at once as a vector has 64-bit lanes (ten rounds of Philox4x32; see tern/random.h
// for the definition).
#pragma once

#include "kernels/cpu/simd.h"
#include "tern/random.h"

namespace tern::kernels {
namespace {

/// The four words of some blocks, each in the lower halves of 64-bit lanes; the upper halves hold rubbish.
template <Isa isa>
struct BlockWords {
  Vector<std::uint64_t, isa> word0, word1, word2, word3;
};

/// Words of the blocks high << 32 | low[lane].
template <Isa isa>
[[gnu::always_inline]] inline BlockWords<isa> draw_words(const RandomStream& stream, std::uint32_t sample,
                                                         Vector<std::uint64_t, isa> low, std::uint32_t high) {
  using Words = Vector<std::uint64_t, isa>;
  const auto constant = [](std::uint64_t value) { return broadcast<std::uint64_t, isa>(value); };
  Words word0 = low, word1 = constant(high), word2 = constant(sample), word3 = constant(*stream.step);
  PhiloxKey key = stream.key;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {  // products and exclusive ors never read upper halves of words
    const Words product0 = multiply_low_halves<isa>(word0, constant(0xD2511F53u));
    const Words product1 = multiply_low_halves<isa>(word2, constant(0xCD9E8D57u));
    word0 = (product1 >> 32) ^ word1 ^ constant(key.low);
    word1 = product1;
    word2 = (product0 >> 32) ^ word3 ^ constant(key.high);
    word3 = product0;
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  return {word0, word1, word2, word3};
}

/// Two words side by side: even | odd << 32.
template <Isa isa>
[[gnu::always_inline]] inline Vector<std::uint64_t, isa> join_words(Vector<std::uint64_t, isa> even,
                                                                    Vector<std::uint64_t, isa> odd) {
  return (even & 0xFFFFFFFFu) | (odd << 32);
}

/// out[2 lane], out[2 lane + 1] = the four words of block high << 32 | low[lane], in order.
template <Isa isa>
[[gnu::always_inline]] inline void draw_blocks(const RandomStream& stream, std::uint32_t sample,
                                               Vector<std::uint64_t, isa> low, std::uint32_t high,
                                               std::uint64_t* out) {
  using Words = Vector<std::uint64_t, isa>;
  constexpr int lanes = Simd<std::uint64_t, isa>::lanes;
  const BlockWords<isa> drawn = draw_words<isa>(stream, sample, low, high);
  const Words first = join_words<isa>(drawn.word0, drawn.word1),
              second = join_words<isa>(drawn.word2, drawn.word3);
  typename Simd<std::int64_t, isa>::Integers lower, upper;
  for (int lane = 0; lane < lanes; ++lane) {
    lower[lane] = lane / 2 + (lane % 2) * lanes;
    upper[lane] = lower[lane] + lanes / 2;
  }
  store<std::uint64_t, isa>(out, __builtin_shuffle(first, second, lower));
  store<std::uint64_t, isa>(out + lanes, __builtin_shuffle(first, second, upper));
}

}  // namespace
}  // namespace tern::kernels
