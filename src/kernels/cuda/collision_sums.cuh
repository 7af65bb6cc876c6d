// What the kernels that sum rows of crowded buckets share (collision_sums.cu): their operands, a bucket on its
// way to its sum, and a lane's share of a sum.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels::crowded {

constexpr int sum_part_rows = 128;  // short chains of additions keep rounding errors small

/// Buckets that were cut, and their parts; the order of the entries is of no importance.
struct Cuts {
  CrowdedBucket* bucket;  ///< [capacity]
  uint2* part;            ///< [capacity] number of the bucket, number of the part
  std::uint32_t* count;   ///< buckets, parts
};

template <class T, class Id>
struct CrowdedSums {
  Sequences sequences;
  Collisions<Id> collisions;
  Heads<const T> value;
  T* summed;
  Accumulate<T>* partial;  ///< [lists][tokens / sum_part_rows + 1][width]
  Cuts cuts;

  __device__ __forceinline__ int head(const CrowdedBucket& bucket) const {
    return bucket.list / collisions.hashes;
  }
  __device__ __forceinline__ std::int64_t first_place(const CrowdedBucket& bucket) const {
    return sequences.offsets[bucket.sequence] + static_cast<std::int64_t>(bucket.partner_first);
  }
  __device__ __forceinline__ T* sum_row(const CrowdedBucket& bucket) const {
    const std::int64_t row = summed_row(value.tokens, bucket.list % collisions.hashes, first_place(bucket)),
                       rows = collisions.hashes * summed_rows_of_hash(value.tokens);
    return summed + (head(bucket) * rows + row) * value.width;
  }
  /// Parts start at least sum_part_rows apart, which gives each a row of its own.
  __device__ __forceinline__ Accumulate<T>* partial_row(const CrowdedBucket& bucket, std::uint32_t part) const {
    const std::int64_t place = first_place(bucket) + static_cast<std::int64_t>(part) * sum_part_rows;
    return partial + (bucket.list * (value.tokens / sum_part_rows + 1) + place / sum_part_rows) * value.width;
  }
};

/// The last part has up to twice as many rows less one.
__device__ __forceinline__ std::uint32_t parts_of(const CrowdedBucket& bucket) {
  return max(1u, bucket.partner_count / sum_part_rows);
}

/// A bucket on its way to its sum, and the ids of its first rows, one for each lane; behind the last row its id
/// is repeated, so that all lanes may read.
template <class T, class Id>
struct BucketRows {
  static constexpr int words = sizeof(CrowdedBucket) / 4;
  CrowdedBucket bucket;
  int begin;
  std::uint32_t id;

  /// Word `lane` of bucket i of `count`.
  __device__ __forceinline__ static std::uint32_t load_word(const CrowdedBuckets& crowded, int segment,
                                                            std::uint32_t i, std::uint32_t count) {
    const auto lane = threadIdx.x % warp_lanes;
    const CrowdedBucket* bucket = crowded.buckets + segment * crowded.capacity + i;
    return lane < words && i < count ? reinterpret_cast<const std::uint32_t*>(bucket)[lane] : 0;
  }

  BucketRows() = default;
  __device__ __forceinline__ BucketRows(const CrowdedSums<T, Id>& p, const CrowdedBucket& of)
      : bucket(of), begin(p.sequences.offsets[of.sequence]), id(load_id(p, 0, of.partner_count)) {}
  __device__ __forceinline__ BucketRows(const CrowdedSums<T, Id>& p, std::uint32_t word)
      : BucketRows(p, bucket_of(word)) {}

  /// Id of row first + lane, or of the last one before row `end`.
  __device__ __forceinline__ std::uint32_t load_id(const CrowdedSums<T, Id>& p, std::uint32_t first,
                                                   std::uint32_t end) const {
    const Id* order = p.collisions.partner_order + bucket.list * p.value.tokens + begin + bucket.partner_first;
    return order[min(first + threadIdx.x % warp_lanes, end - 1)];
  }

 private:
  __device__ __forceinline__ static CrowdedBucket bucket_of(std::uint32_t word) {
    const auto at = [&](int lane) { return __shfl_sync(0xFFFFFFFFu, word, lane); };
    return {
        static_cast<std::int32_t>(at(0)), static_cast<std::int32_t>(at(1)), at(2), at(3), at(4), at(5), at(6)};
  }
};

/// A lane's share of a sum: `lanes` neighbouring lanes share a row, `items` columns each, from `column` on.
template <int items, class T, class Id>
struct LaneSum {
  const CrowdedSums<T, Id>& p;
  int lanes, column;
  Accumulate<T> sum[items];

  /// The sum of rows first .. end - 1, valid in all lanes; `id` of the first of them. Behind the last column
  /// the first ones are read.
  __device__ __forceinline__ void run(const BucketRows<T, Id>& rows, std::uint32_t id, std::uint32_t first,
                                      std::uint32_t end) {
#pragma unroll
    for (int u = 0; u < items; ++u) sum[u] = {};
    const T* from = row_of(p.value, rows.begin, p.head(rows.bucket)) + (column < p.value.width ? column : 0);
#pragma unroll 1
    for (; first < end; first += warp_lanes) {
      const std::uint32_t next = first + warp_lanes < end ? rows.load_id(p, first + warp_lanes, end) : 0;
      const auto left = static_cast<int>(min(end - first, std::uint32_t{warp_lanes}));
#pragma unroll 1
      for (int i = 0; i < left; i += most_steps * (warp_lanes / lanes)) {
        if (left - i > most_steps / 2 * (warp_lanes / lanes))
          add<most_steps>(from, id, i, left);
        else
          add<most_steps / 2>(from, id, i, left);
      }
      id = next;
    }
    for (int step = lanes; step < warp_lanes; step *= 2) {
#pragma unroll
      for (int u = 0; u < items; ++u) sum[u] += __shfl_xor_sync(0xFFFFFFFFu, sum[u], step);
    }
  }

 private:
  static constexpr int most_steps = 8;  ///< loads under way at a time

  /// Adds rows i .. of the 32 whose ids the lanes hold, of which there are `left`.
  template <int steps>
  __device__ __forceinline__ void add(const T* from, std::uint32_t id, int i, int left) {
    const int together = warp_lanes / lanes;
    i += static_cast<int>(threadIdx.x) % warp_lanes / lanes;
    std::uint32_t row[steps];
#pragma unroll
    for (int s = 0; s < steps; ++s) row[s] = __shfl_sync(0xFFFFFFFFu, id, i + s * together);
    Pack<T, items> pack[steps];
#pragma unroll
    for (int s = 0; s < steps; ++s)
      pack[s] = load_pack<items>(from + static_cast<std::int64_t>(row[s]) * p.value.token_stride);
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      if (i + s * together >= left) continue;
#pragma unroll
      for (int u = 0; u < items; ++u) sum[u] += to_accumulate(pack[s].item[u]);
    }
  }
};

/// Calls visit(column, lane's sum) for all columns of `rows` that this lane has, after summing rows first ..
/// end
/// - 1; in one lane of those that have the same.
template <int items, class T, class Id, class Visit>
__device__ __forceinline__ void sum_rows(const CrowdedSums<T, Id>& p, const BucketRows<T, Id>& rows,
                                         std::uint32_t id, std::uint32_t first, std::uint32_t end, int lanes,
                                         const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll 1
  for (int start = 0; start < p.value.width; start += lanes * items) {
    LaneSum<items, T, Id> sum{p, lanes, start + lane % lanes * items, {}};
    sum.run(rows, id, first, end);
    if (lane < lanes && sum.column < p.value.width) visit(sum.column, sum.sum);
  }
}

}  // namespace tern::kernels::crowded
