// Who collides with whom, row by row: hashing's ragged rows sorted by code, then matched. One direction has own
// rows (those that receive a sum) and partner rows (those that are added). Deterministic: entries come hash
// after hash, within a hash in the order of the sequence; only where a list lies in memory may differ.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "base/cuda.h"
#include "kernels/view.h"

namespace tern::kernels {

/// Heads are worked off in groups whose work area stays near this: gradients, and sums alone, which have no
/// gradients beside them in memory.
constexpr std::int64_t group_bytes = std::int64_t{72} << 20, sum_group_bytes = std::int64_t{176} << 20;
/// Longest sequence whose places fit std::uint16_t.
constexpr std::int64_t rows_of_short_ids = 65536;

/// Partners of a bucket that are listed one by one; a bucket of more is crowded and worked off as a whole.
constexpr int few_rows = 8;

/// A run of entries.
struct EntryRange {
  std::uint32_t first, count;
};

/// What each row meets. Head h owns `ids` from h * id_stride and `sums` from h * sum_stride on, to which the
/// ranges refer; both lie in the same memory. Id is std::uint16_t where sequences have at most 65,536 rows,
/// else std::uint32_t.
template <class Id>
struct PartnerLists {
  const EntryRange* few;      ///< [heads][tokens] into ids
  const Id* ids;              ///< places in the sequence of partners in buckets of at most few_rows
  const EntryRange* crowded;  ///< [heads][tokens] into sums
  const std::uint32_t*
      sums;  ///< summed rows (summed_row below), one for each crowded bucket that the row meets
  std::int64_t tokens, id_stride, sum_stride;
};

/// Number, within its head, of the sum over a crowded bucket of partners that starts at place `first` of the
/// sorted order of hash `hash` (counted over all sequences: offset of the sequence + place in it). Unique,
/// because such buckets start at least few_rows + 1 apart.
TERN_HOST_DEVICE constexpr std::int64_t summed_rows_of_hash(std::int64_t tokens) {
  return tokens / (few_rows + 1) + 1;
}
TERN_HOST_DEVICE constexpr std::int64_t summed_row(std::int64_t tokens, int hash, std::int64_t first) {
  return hash * summed_rows_of_hash(tokens) + first / (few_rows + 1);
}

/// A bucket with more than few_rows partners and at least one own row. Places are counted inside the sequence's
/// part of the sorted order.
struct CrowdedBucket {
  std::int32_t list, sequence;  ///< list = head * hashes + hash, heads counted inside the group
  std::uint32_t code, own_first, own_count, partner_first, partner_count;
};

/// Crowded buckets, in no particular order, by segment: one segment for each hash where additions must come in
/// a fixed order, else only one.
struct CrowdedBuckets {
  CrowdedBucket* buckets;  ///< [segments][capacity]
  std::uint32_t* count;    ///< [segments]
  int segments;
  std::int64_t capacity;
  /// Zeros after match(), for those who work the buckets off: [segments][of_segment] for their pairs, then
  /// of_sums for their sums.
  std::uint32_t* counters;
  static constexpr int of_segment = 9, of_sums = 2;
};

/// One direction of the collisions of a group of heads.
template <class Id>
struct Collisions {
  PartnerLists<Id> lists;
  CrowdedBuckets crowded;
  const Id* own_order;      ///< [heads * hashes][tokens] places in the sequence, by code, then by place;
                            ///< null where the finder was made for one direction
  const Id* partner_order;  ///< the same of partner rows
  int heads, hashes;
};

/// Work area for the collisions of up to `heads` heads, and what it holds after match(). Its size depends on
/// host bounds only, so that nothing is read back. The lists of both directions share their memory:
/// link_queries() and link_keys() write it.
template <class Id>
class CollisionFinder {
 public:
  /// `both`: queries against keys and keys against queries; else only the direction of queries.
  /// `in_fixed_order`: a segment of crowded buckets for each hash.
  CollisionFinder(Cuda& cuda, const Sequences& sequences, int hashes, int bits, int heads, bool both,
                  bool in_fixed_order);

  /// Bytes of the work area for one head.
  static std::int64_t bytes_of_head(const Sequences& sequences, int hashes, bool both);

  /// Codes [heads * hashes][tokens] of queries and of keys. Orders and crowded buckets hold from now on.
  template <class Code>
  void match(const Code* q_codes, const Code* k_codes, int heads);
  /// Lists of a direction, each once after match().
  void link_queries();
  void link_keys();

  /// Own rows: queries, partners: keys.
  Collisions<Id> of_queries() const;
  /// Own rows: keys, partners: queries; needs `both`.
  Collisions<Id> of_keys() const;

 private:
  /// Keys have a direction of their own where both are wanted.
  enum Direction : int { queries, keys };
  using Records = std::optional<Scratch<std::uint32_t>>;

  std::int64_t counts_of_direction() const {
    return segments_ * (1 + CrowdedBuckets::of_segment) + CrowdedBuckets::of_sums + heads_;
  }
  std::uint32_t* counts_of(Direction direction) const {
    return counts_.data() + direction * counts_of_direction();
  }
  Collisions<Id> collisions(Direction direction, const Id* own_order, const Id* partner_order) const;
  void link(Direction direction, Records& records, const Id* partner_order);

  Cuda& cuda_;
  Sequences sequences_;
  int hashes_, bits_, heads_, segments_;
  bool both_;
  int found_heads_ = 0;  ///< of the last match()
  Scratch<EntryRange> few_, crowded_;
  Scratch<std::uint32_t> entries_;  ///< ids and sums
  Scratch<CrowdedBucket> buckets_;  ///< [directions][heads * hashes * most of one]
  /// [directions] of [segments] crowded buckets, [heads] words of entries in use, and the buckets' counters.
  Scratch<std::uint32_t> counts_;
  Scratch<Id> k_order_, q_order_;
  Records q_records_, k_records_;  ///< from match() to the link
};

}  // namespace tern::kernels
