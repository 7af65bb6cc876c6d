// Gradients over colliding pairs: what the passes over few and over crowded rows share.
#pragma once

#include "kernels/cuda/bucket_lists.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {

/// A bucket whose pairs are worked off as a whole.
struct CrowdedBucket {
  std::int32_t list, sequence;
  std::uint32_t code, own_first, own_count, partner_first, partner_count;
};

/// Crowded buckets by segment: one for each hash where additions must come in a fixed order, else only one.
struct CrowdedBuckets {
  CrowdedBucket* buckets;  ///< [segments][capacity]
  std::uint32_t* count;    ///< [segments], then 1 where any segment has a bucket
  int segments;
  std::int64_t capacity;
  /// Harmonic means of rows on both sides above `dense`, and more partners than `long_bucket`, make a bucket
  /// crowded; one with at most `few` partners never is. So a list has at most rows / 15 crowded buckets.
  static constexpr std::uint32_t few = 16, dense = 32, long_bucket = 256;

  __device__ static __forceinline__ bool is_crowded(std::uint32_t own, std::uint32_t partners) {
    return partners > few && (2 * std::uint64_t{own} * partners > dense * (std::uint64_t{own} + partners) ||
                              partners > long_bucket);
  }
};

/// One of the two gradients. With rows [x | y], own_i gets scale * sum over its partners j of (y_i . y_j)
/// weight(x_i . x_j) x_j. For dq own rows are [q | dy] and partners [k | v], for dk the other way round.
template <class T, class Code>
struct GradientSide {
  Sequences sequences;
  BucketLists<Code> own, partner;
  Heads<const T> own_x, own_y, partner_x, partner_y;
  Heads<T> out;
  int hashes, bits, first_head;
  bool is_exact, own_is_query, packed;  ///< packed: rows may be read 16 bytes at a time
  RandomStream stream;
  Accumulate<T>* sums;  ///< [heads][tokens][width] from crowded buckets, without the scale
  CrowdedBuckets crowded;
};

/// 1 / ((pi - arccos s) sqrt(1 - s^2)) with s clamped to +-(1 - 1e-6).
template <class A>
__device__ __forceinline__ A exact_weight(A s) {
  constexpr A bound = A(1) - A(1e-6);
  s = s > bound ? bound : s;
  s = s < -bound ? -bound : s;
  const A square = (A(1) - s) * (A(1) + s);
  if constexpr (sizeof(A) == 4)
    return 1.0f / (acosf(-s) * sqrtf(square));
  else
    return 1.0 / (acos(-s) * sqrt(square));
}

/// Finds the crowded buckets and adds their pairs to `sums`, which it clears before.
template <class T, class Code>
void add_crowded_buckets(Cuda& cuda, const GradientSide<T, Code>& side);

}  // namespace tern::kernels
