// Which attention weights dropout keeps: a byte for each of 16 queries x a block of keys.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/philox_lanes.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles.h"

namespace tern::kernels {
namespace {

/// One row of bytes for each of 16 queries, in the order of the keys: all bits set where the weight is kept.
template <Isa isa>
class KeptBytes {
 public:
  static constexpr int queries = 16;

  KeptBytes(Layout& layout, int most_keys)
      : stride_(round_up(most_keys, key_step)), bytes_(layout.take<std::int8_t>(queries * stride_)) {}

  /// Draws for at most 16 queries from `query` on and `key_count` keys from `key` on, counted from the first
  /// token of the sequence; `query` and `key` are multiples of 16.
  [[gnu::noinline]] void draw(const RandomStream& stream, std::uint32_t threshold, std::int64_t sample,
                              int head, std::int64_t query, int query_count, std::int64_t key, int key_count) {
    Words patches;
    for (int lane = 0; lane < lanes; ++lane) patches[lane] = static_cast<std::uint64_t>(lane);
    for (int row = 0; row < queries / 2 && row < query_count; row += 4) {  // two rows of patches hide latency
      for (int column = 0; column < round_up(key_count, 16); column += 4 * lanes) {
        const std::int64_t from = key + column / 16 * 16;
        const auto draw_row = [&](std::uint64_t block) __attribute__((always_inline)) {
          block += static_cast<std::uint64_t>(column % 16 / 4);
          return draw_words<isa>(stream, static_cast<std::uint32_t>(sample), patches + (block & 0xFFFFFFFFu),
                                 static_cast<std::uint32_t>(block >> 32));
        };
        const BlockWords<isa> drawn = draw_row(weight_dropout_block(head, query + row, from)),
                              next = draw_row(weight_dropout_block(head, query + row + 2, from));
        store_rows(kept(drawn.word0, drawn.word1, threshold), row, column);
        store_rows(kept(drawn.word2, drawn.word3, threshold), row + 1, column);
        store_rows(kept(next.word0, next.word1, threshold), row + 2, column);
        store_rows(kept(next.word2, next.word3, threshold), row + 3, column);
      }
    }
  }

  /// The bytes of query `row` of the 16.
  const std::int8_t* row(int row) const { return bytes_ + row * stride_; }

 private:
  using Words = Vector<std::uint64_t, isa>;
  static constexpr int lanes = Simd<std::uint64_t, isa>::lanes;  ///< blocks drawn together: 4 keys each
  static constexpr int key_step = 32;
  using Bytes = Vector<std::uint8_t, isa>;
  using Dwords = Vector<std::uint32_t, isa>;

  /// Which bytes of two words reach the threshold.
  [[gnu::always_inline]] static Bytes kept(Words even, Words odd, std::uint32_t threshold) {
    const auto drawn = reinterpret_cast<Bytes>(join_words<isa>(even, odd));
    return reinterpret_cast<Bytes>(drawn >= static_cast<std::uint8_t>(threshold));
  }

  /// Byte [patch, odd key, row / 8, key / 8] of `flags` belongs to row `row` or `row` + 8 and to one of the
  /// keys from `column` on: sorts inside pairs of patches, then over the vector.
  [[gnu::always_inline]] void store_rows(Bytes flags, int row, int column) {
    Bytes inside;
    for (int i = 0; i < static_cast<int>(sizeof(Words)); ++i) {
      const int half = i % 16 / 4, patch = i % 4 / 2, odd = i % 2;
      inside[i] = static_cast<std::uint8_t>(i / 16 * 16 + patch * 8 + odd * 4 + half);
    }
    const auto pairs = reinterpret_cast<Dwords>(__builtin_shuffle(flags, inside));
    if constexpr (lanes == 2) {  // half of 16 keys: row, row + 8 x keys, keys + 8
      const int place = column / 16 * 16 + column % 16 / 2;
      for (int half = 0; half < 4; ++half) {
        const std::uint32_t four = pairs[half];
        std::memcpy(bytes_ + (row + half / 2 * 8) * stride_ + place + half % 2 * 8, &four, sizeof four);
      }
    } else {
      Dwords order;
      for (int i = 0; i < 2 * lanes; ++i) {
        const int lower = i / lanes, group = i % lanes / 4, half = i % 4 / 2, pair = i % 2;
        order[i] = static_cast<std::uint32_t>((group * 2 + pair) * 4 + lower * 2 + half);
      }
      const Dwords sorted = __builtin_shuffle(pairs, order);
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(&sorted);
      std::memcpy(bytes_ + row * stride_ + column, bytes, sizeof sorted / 2);
      std::memcpy(bytes_ + (row + 8) * stride_ + column, bytes + sizeof sorted / 2, sizeof sorted / 2);
    }
  }

  int stride_;
  std::int8_t* bytes_;  ///< [queries, stride_]
};

}  // namespace
}  // namespace tern::kernels
