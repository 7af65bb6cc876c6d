// Runs of rows of crowded buckets, and the windows that the exact weight puts into long ones.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels::crowded {

constexpr std::uint32_t window_keys = 64, window_queries = 32;

/// A cyclic run of rows of a bucket: count of them from `start` on.
template <class Id>
struct RowRun {
  const Id* order;  ///< of the bucket
  std::uint32_t total, start, count;
  __device__ __forceinline__ std::uint32_t row(std::uint32_t i) const {
    const std::uint32_t place = start + i;
    return order[place < total ? place : place - total];
  }
};

/// `count` rows from `start` on among the own rows, or the partners, of a bucket whose sequence begins at
/// `begin`.
template <class T, class Id>
__device__ __forceinline__ RowRun<Id> own_run(const CrowdedPairs<T, Id>& p, const CrowdedBucket& bucket,
                                              int begin, std::uint32_t start, std::uint32_t count) {
  const Id* order = p.collisions.own_order + bucket.list * p.own_x.tokens + begin;
  return {order + bucket.own_first, bucket.own_count, start, count};
}
template <class T, class Id>
__device__ __forceinline__ RowRun<Id> partner_run(const CrowdedPairs<T, Id>& p, const CrowdedBucket& bucket,
                                                  int begin, std::uint32_t start, std::uint32_t count) {
  const Id* order = p.collisions.partner_order + bucket.list * p.own_x.tokens + begin;
  return {order + bucket.partner_first, bucket.partner_count, start, count};
}

/// Rows on both sides: queries and keys of a bucket.
struct BucketSides {
  std::uint32_t queries, keys;
};
template <class T, class Id>
__device__ __forceinline__ BucketSides sides_of(const CrowdedPairs<T, Id>& p, const CrowdedBucket& bucket) {
  if (p.own_is_query) return {bucket.own_count, bucket.partner_count};
  return {bucket.partner_count, bucket.own_count};
}

/// Whether the harmonic mean of the rows on both sides is more than `bound`.
__device__ __forceinline__ bool is_fuller(const CrowdedBucket& bucket, std::uint32_t bound) {
  return 2 * std::uint64_t{bucket.own_count} * bucket.partner_count >
         bound * (std::uint64_t{bucket.own_count} + bucket.partner_count);
}

/// Whether the exact weight takes windows. Consecutive runs of window_queries queries meet consecutive windows
/// of window_keys keys, the first one from a random place: every pair is met with probability window_keys /
/// keys, and the keys are met as evenly as possible.
template <class T, class Id>
__device__ __forceinline__ bool takes_windows(const CrowdedPairs<T, Id>& p, const CrowdedBucket& bucket) {
  return sides_of(p, bucket).keys > window_keys && is_fuller(bucket, window_keys);
}

/// Where window `number` of a bucket begins among its keys.
template <class T, class Id>
__device__ __forceinline__ std::uint32_t window_place(const CrowdedPairs<T, Id>& p, const CrowdedBucket& bucket,
                                                      std::uint32_t number) {
  const auto hash = static_cast<std::uint64_t>(bucket.list % p.collisions.hashes);
  const int head = p.first_head + bucket.list / p.collisions.hashes;
  const std::uint64_t block =
      HashDraw::block(HashDraw::window, head, (hash << 20 | std::uint64_t{bucket.code}) * 4);
  const PhiloxWords words = p.stream.words(p.sequences.sample[bucket.sequence], block);
  const std::uint32_t keys = sides_of(p, bucket).keys;
  const float place = __fmul_rn(to_uniform(words.word[0]), static_cast<float>(keys));
  const std::uint32_t first = min(keys - 1, static_cast<std::uint32_t>(place));
  return static_cast<std::uint32_t>((first + std::uint64_t{number} * window_keys) % keys);
}

}  // namespace tern::kernels::crowded
