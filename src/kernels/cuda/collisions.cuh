// What the kernels that find collisions share: their operands, and what is noted of a row and hash.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collisions.h"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

/// What an own row meets in one hash, in one word: the upper four bits hold the number of partners up to
/// few_rows, or `crowded`; the others a single partner's place in the sequence, else the bucket's place in the
/// sorted order.
struct MatchRecord {
  static constexpr int shift = 28;
  static constexpr std::uint32_t crowded = 15, low_bits = (1u << shift) - 1;

  __device__ static __forceinline__ std::uint32_t of(std::uint32_t count, std::uint32_t place) {
    return (count > few_rows ? crowded : count) << shift | place;
  }
};

/// Where the count of partner `id` lies in its row: permuted within runs of 64, so that lane 4 g + t of a
/// fragment finds what it needs of one row in 16 neighbouring bytes: columns 16 u + {2 t, 2 t + 1, 2 t + 8,
/// 2 t + 9} in word u of run 16 t.
__host__ __device__ __forceinline__ std::uint32_t count_place(std::uint32_t id) {
  const std::uint32_t low = (id >> 2 & 14u) | (id & ~14u);  // bits 3, 4, 5 of the id become 1, 2, 3
  return (id << 3 & 48u) | (low & ~48u);                    // and bits 1, 2 become 4, 5
}

/// What an own row meets in one hash, in one word: up to 30 / place_bits partners themselves, their number in
/// the two upper bits and their count_place() below; of more partners their number (few_rows at most, else
/// MatchRecord::crowded) from bit 16 on and their first place in the partners' order. 0: nobody.
struct CountWord {
  static constexpr int most_held = 3, held_shift = 30, count_shift = 16;
  static constexpr std::uint32_t first_bits = (1u << count_shift) - 1;
  std::uint32_t word;

  static int place_bits(std::int64_t longest) { return longest <= 1024 ? 10 : 15; }
  /// `order`: of the partners.
  template <class Id>
  static __device__ __forceinline__ std::uint32_t of(std::uint32_t count, std::uint32_t first, const Id* order,
                                                     int place_bits) {
    const std::uint32_t held = place_bits <= 10 ? 3 : 2;
    if (count > held) return (count > few_rows ? MatchRecord::crowded : count) << count_shift | first;
    std::uint32_t places = 0;
#pragma unroll
    for (std::uint32_t i = 0; i < most_held; ++i)
      if (i < count) places |= count_place(order[first + i]) << i * place_bits;
    return count << held_shift | places;
  }
  /// Partners in the word itself.
  __device__ __forceinline__ std::uint32_t held() const { return word >> held_shift; }
  /// Whether the word says where at most few_rows partners lie in the order.
  __device__ __forceinline__ bool is_listed() const {
    return word - 1 < (MatchRecord::crowded << count_shift) - 1;
  }
  __device__ __forceinline__ bool is_crowded() const { return word >> count_shift == MatchRecord::crowded; }
};

/// Rows of one side of a group of heads. Lists are head * hashes + hash.
template <class Id, class Code>
struct MatchedSide {
  const Code* codes;       ///< [lists][tokens]
  Id* order;               ///< [lists][tokens], or null where nobody asks for it
  std::uint32_t* records;  ///< [lists][tokens] with this side's rows as own rows, or null
  CrowdedBuckets crowded;  ///< with this side's rows as own rows
};

template <class Id, class Code>
struct MatchWork {
  Sequences sequences;
  MatchedSide<Id, Code> q, k;
  int hashes, bits;
  std::int64_t lists;
  int place_bits;  ///< of the CountWords that are written as records; 0: MatchRecords
};

/// Sorts both sides and writes records and crowded buckets.
template <class Id, class Code>
void match_long_rows(Cuda& cuda, const MatchWork<Id, Code>& work);
/// The same where a sequence's rows and counters fit into shared memory.
bool fits_short_rows(const Cuda& cuda, const Sequences& sequences, int bits, bool both);
void match_short_rows(Cuda& cuda, const MatchWork<std::uint16_t, std::uint16_t>& work);

/// From records to lists of partners, one direction.
template <class Id>
struct LinkWork {
  Sequences sequences;
  const std::uint32_t* records;
  const Id* partner_order;
  EntryRange *few, *crowded;
  std::uint32_t* entries;  ///< [heads][capacity]
  std::uint32_t* used;     ///< [heads] words in use, 0 before
  std::int64_t capacity;
  int heads, hashes;
};
template <class Id>
void link_rows(Cuda& cuda, const LinkWork<Id>& work);
/// Words of `entries` that one head may need.
template <class Id>
std::int64_t link_capacity(std::int64_t tokens, int hashes);

}  // namespace tern::kernels
