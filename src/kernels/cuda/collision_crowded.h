// What buckets of many partners add to gradients and sums: whole buckets are worked off at once, and rows find
// the results (collisions.h says which buckets these are).
#pragma once

#include "kernels/cuda/collisions.h"
#include "kernels/hashing.h"

namespace tern::kernels {

/// Sums of the partners' rows of crowded buckets: summed_row(tokens, hash, offset of the sequence +
/// partner_first) of `summed` [heads][hashes * summed_rows_of_hash(tokens)][width]. Other rows are left as they
/// are. Deterministic: sums of 128 rows, in the order of the bucket, then the sum of these.
template <class T, class Id>
void sum_crowded_rows(Cuda& cuda, const Sequences& sequences, const Collisions<Id>& collisions,
                      Heads<const T> partner_value, T* summed);

/// With rows [x | y] on both sides, sums_i += sum over i's partners j in crowded buckets, bucket by bucket, of
/// (y_i . y_j) w x_j; w = 1, or with is_exact 1 / ((pi - arccos s) sqrt(1 - s^2)), s = x_i . x_j, where a
/// bucket that would take more than linear time meets windows (hashing.h). For dq own rows are [q | dy] and
/// partners [k | v], for dk own rows [k | v] and partners [q | dy].
template <class T, class Id>
struct CrowdedPairs {
  Sequences sequences;
  Collisions<Id> collisions;
  Heads<const T> own_x, own_y, partner_x, partner_y;  ///< of the group's heads
  int first_head;                                     ///< of the group, among all: names the draws of windows
  bool is_exact, own_is_query;
  RandomStream stream;
  Accumulate<T>* sums;                                ///< [heads][tokens][width]
};

/// Adds to the rows of work.sums that meet a crowded bucket. In a fixed order where each hash has its segment
/// of buckets. Needs no more than CollisionFinder::match().
template <class T, class Id>
void add_crowded_pairs(Cuda& cuda, const CrowdedPairs<T, Id>& work);

}  // namespace tern::kernels
