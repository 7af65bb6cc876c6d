// What the kernels that find collisions share: their operands and the records of matches.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collisions.h"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

/// What an own row meets in one hash, in one word. The upper four bits are its kind: the number of partners up
/// to few_rows, `pair` or `crowded`. The others hold a single partner's place in the sequence, both places of a
/// pair, the smaller one below, where they fit, else the bucket's place in the sorted order.
struct MatchRecord {
  static constexpr int shift = 28, place_bits = 14;
  static constexpr std::uint32_t low_bits = (1u << shift) - 1, place_mask = (1u << place_bits) - 1;
  /// Their lower two bits are the numbers of partners to list.
  static constexpr std::uint32_t pair = 10, crowded = 12;
  static_assert(pair > few_rows && pair % 4 == 2 && crowded % 4 == 0);

  __device__ static __forceinline__ std::uint32_t of(std::uint32_t count, std::uint32_t place) {
    return (count > few_rows ? crowded : count) << shift | place;
  }
  __device__ static __forceinline__ std::uint32_t of_pair(std::uint32_t first, std::uint32_t second) {
    return pair << shift | second << place_bits | first;
  }
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
