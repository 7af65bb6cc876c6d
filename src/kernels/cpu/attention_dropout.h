// Slices of the dropout stream for one row of attention weights.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/philox_lanes.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles.h"

namespace tern::kernels {
namespace {

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
    const std::uint64_t row = weight_dropout_block(head, query, 0);
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
