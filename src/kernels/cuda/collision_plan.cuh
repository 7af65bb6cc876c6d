// How crowded buckets are cut into pieces for warps and blocks (collision_products.cu): a kernel that lists
// the pieces of a segment of buckets, and the room that the lists need. Light buckets, nearly all of those of
// random rows, are not listed.
#pragma once

#include <algorithm>

#include "kernels/cuda/collision_runs.cuh"

namespace tern::kernels::crowded {

constexpr std::uint32_t piece_partners = 512;                 // of a piece of pairs
constexpr std::uint32_t part_rows = 2048;                     // of a long bucket
constexpr std::uint32_t light_own = 16, light_partners = 64;  // of a light bucket, at most

/// A part of the work on bucket `bucket` of a segment.
struct Piece {
  std::uint32_t bucket, number;
};

/// Counters of one segment: how many pieces there are, and how many are taken.
struct PieceCounts {
  std::uint32_t pairs, moments, builds, applies, long_buckets;
  std::uint32_t pairs_taken, moments_taken, builds_taken, applies_taken;
};

/// Part `part` of the rows of a bucket whose moment has place `slot`.
struct LongPiece {
  std::uint32_t bucket, part, slot;
};

/// What the first kernel finds in one segment.
struct Plan {
  PieceCounts* counts;  ///< [segments]
  Piece* pairs;
  std::uint32_t* moments;  ///< buckets
  LongPiece* builds;
  LongPiece* applies;
  float* long_moments;       ///< [long buckets][width][width], `width` a template
                             ///< argument below
  std::uint64_t short_rows;  ///< a bucket with more rows on both sides together is long
  std::uint32_t dense;       ///< a bucket with more rows, in the harmonic mean, goes
                             ///< through its moment
  bool in_order;
};

template <class Id>
struct ProductWork {
  CrowdedPairs<bfloat16, Id> p;
  Plan plan;
  int segment;

  __device__ __forceinline__ std::uint32_t buckets() const { return p.collisions.crowded.count[segment]; }
  __device__ __forceinline__ CrowdedBucket bucket(std::uint32_t i) const {
    return p.collisions.crowded.buckets[segment * p.collisions.crowded.capacity + i];
  }
  __device__ __forceinline__ PieceCounts& counts() const { return plan.counts[segment]; }
};

__device__ __forceinline__ std::uint32_t parts(std::uint32_t count, std::uint32_t size) {
  return (count + size - 1) / size;
}

/// Whether a bucket is one short piece of pairs. Such a bucket takes neither its moment nor windows, as the
/// harmonic mean of its rows stays below 64.
__device__ __forceinline__ bool is_light(const CrowdedBucket& bucket) {
  return bucket.own_count <= light_own && bucket.partner_count <= light_partners;
}

/// Pieces of pairs of a bucket, own_rows rows each; windows of keys are one piece where they must be in order.
template <std::uint32_t own_rows, class Id>
__device__ std::uint32_t count_pieces(const ProductWork<Id>& w, const CrowdedBucket& bucket) {
  if (w.p.is_exact && takes_windows(w.p, bucket)) {
    if (w.plan.in_order && !w.p.own_is_query) return 1;
    return parts(sides_of(w.p, bucket).queries, window_queries);
  }
  const std::uint32_t partner_parts = w.plan.in_order ? 1 : parts(bucket.partner_count, piece_partners);
  return parts(bucket.own_count, own_rows) * partner_parts;
}

/// Numbers for each lane's `count` places behind *counter.
__device__ __forceinline__ std::uint32_t reserve(std::uint32_t* counter, std::uint32_t count) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  std::uint32_t last = count;
  for (int step = 1; step < warp_lanes; step *= 2) {
    const std::uint32_t before = __shfl_up_sync(0xFFFFFFFFu, last, step);
    if (lane >= step) last += before;
  }
  std::uint32_t first = 0;
  if (lane == warp_lanes - 1 && last > 0) first = atomicAdd(counter, last);
  return __shfl_sync(0xFFFFFFFFu, first, warp_lanes - 1) + last - count;
}

template <int width, class Id>
__device__ void plan_long_bucket(const ProductWork<Id>& w, std::uint32_t i, const CrowdedBucket& bucket) {
  const auto lane = static_cast<std::uint32_t>(threadIdx.x) % warp_lanes;
  PieceCounts& counts = w.counts();
  const std::uint32_t builds = parts(bucket.partner_count, part_rows),
                      applies = parts(bucket.own_count, part_rows);
  std::uint32_t slot = 0, first_build = 0, first_apply = 0;
  if (lane == 0) {
    slot = atomicAdd(&counts.long_buckets, 1u);
    first_build = atomicAdd(&counts.builds, builds);
    first_apply = atomicAdd(&counts.applies, applies);
  }
  slot = __shfl_sync(0xFFFFFFFFu, slot, 0);
  first_build = __shfl_sync(0xFFFFFFFFu, first_build, 0);
  first_apply = __shfl_sync(0xFFFFFFFFu, first_apply, 0);
  for (std::uint32_t part = lane; part < builds; part += warp_lanes)
    w.plan.builds[first_build + part] = {i, part, slot};
  for (std::uint32_t part = lane; part < applies; part += warp_lanes)
    w.plan.applies[first_apply + part] = {i, part, slot};
  float4* moment = reinterpret_cast<float4*>(w.plan.long_moments + std::int64_t{slot} * width * width);
  for (int c = static_cast<int>(lane); c < width * width / 4; c += warp_lanes) moment[c] = {};
}

/// Lists the pieces of a warp's buckets, of which bucket i is this lane's; those that are not light.
template <int width, std::uint32_t own_rows, class Id>
__device__ void list_pieces(const ProductWork<Id>& w, std::uint32_t i, const CrowdedBucket& bucket,
                            bool is_listed) {
  const std::uint32_t lane = threadIdx.x % warp_lanes;
  const bool is_moment = is_listed && !w.p.is_exact && is_fuller(bucket, w.plan.dense);
  const bool is_long = is_moment && std::uint64_t{bucket.own_count} + bucket.partner_count > w.plan.short_rows;
  const std::uint32_t pieces = is_listed && !is_moment ? count_pieces<own_rows>(w, bucket) : 0;
  const std::uint32_t first = reserve(&w.counts().pairs, pieces),
                      moment = reserve(&w.counts().moments, is_moment && !is_long ? 1 : 0);
  for (std::uint32_t k = 0; k < pieces; ++k) w.plan.pairs[first + k] = {i, k};
  if (is_moment && !is_long) w.plan.moments[moment] = i;
  for (std::uint32_t left = __ballot_sync(0xFFFFFFFFu, is_long); left != 0; left &= left - 1) {
    const std::uint32_t number = i - lane + static_cast<std::uint32_t>(__ffs(static_cast<int>(left)) - 1);
    plan_long_bucket<width>(w, number, w.bucket(number));
  }
}

/// Block `block` of `blocks` that do this; a thread takes a bucket.
template <int width, std::uint32_t own_rows, class Id>
__device__ void plan_pieces(const ProductWork<Id>& w, unsigned block, unsigned blocks) {
  const std::uint32_t count = w.buckets(), lane = threadIdx.x % warp_lanes;
  for (std::uint32_t i = block * blockDim.x + threadIdx.x; i - lane < count; i += blocks * blockDim.x) {
    const CrowdedBucket bucket = i < count ? w.bucket(i) : CrowdedBucket{};
    const bool is_listed = i < count && !is_light(bucket);
    if (__any_sync(0xFFFFFFFFu, is_listed)) list_pieces<width, own_rows>(w, i, bucket, is_listed);
  }
}

/// How much room the plan of one segment needs, from what the host knows.
struct PlanBounds {
  std::int64_t pairs, moments, parts, long_buckets;
  std::uint64_t short_rows;
};

inline PlanBounds plan_bounds(const Sequences& sequences, std::int64_t lists, std::uint32_t dense,
                              bool is_exact, bool in_order, std::int64_t moment_bytes) {
  constexpr std::int64_t most_moment_bytes = 16 << 20;
  constexpr std::int64_t most_short_rows = 8192;  // one block takes as long as about 50 us for these
  PlanBounds bounds{};
  const std::int64_t rows = lists * sequences.tokens, buckets = rows / (few_rows + 1) + lists;
  // Pieces of a own rows, b partners: ceil(a / 16) ceil(b / 512) <= 1 + a / 16 + b / 512 + a b / 8192, where
  // the smaller of a and b is at most `dense`. Under the exact weight, windows are fewer than a + b over 32.
  bounds.pairs = buckets + rows / 16 + rows / 512 + 2 * rows * dense / 8192 + rows / 32;
  if (is_exact) return bounds;
  bounds.moments = 2 * rows / dense + lists;
  if (!in_order && 2 * sequences.longest > most_short_rows) {
    const std::int64_t by_memory = 2 * rows * moment_bytes / most_moment_bytes;
    bounds.short_rows = static_cast<std::uint64_t>(std::max(most_short_rows, by_memory));
    bounds.long_buckets = 2 * rows / static_cast<std::int64_t>(bounds.short_rows) + 1;
    bounds.parts = rows / part_rows + bounds.long_buckets;
  } else {
    bounds.short_rows = ~std::uint64_t{0};
  }
  return bounds;
}

}  // namespace tern::kernels::crowded
