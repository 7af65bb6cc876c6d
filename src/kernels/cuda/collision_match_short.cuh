// Matching in shared memory: what a block holds, and its buckets of many rows, each worked off by a warp.
#pragma once

#include "kernels/cuda/collisions.cuh"

namespace tern::kernels::matching {

using Id = std::uint16_t;
using Work = MatchWork<Id, std::uint16_t>;

constexpr int scan_words = 4 * warp_lanes;  // of one step of a warp
constexpr std::uint32_t one_query = 1, one_key = 1u << 16;

/// A run of places in the sorted order, in one word.
struct Run {
  std::uint32_t word;
  Run() = default;
  __device__ __forceinline__ Run(std::uint32_t first, std::uint32_t count) : word(count << 16 | first) {}
  __device__ __forceinline__ std::uint32_t first() const { return word & 0xFFFFu; }
  __device__ __forceinline__ std::uint32_t count() const { return word >> 16; }
};

/// Rows of a code in both sides: queries in the lower halves, keys in the upper ones.
struct CodeRanges {
  std::uint32_t start, end;
  __device__ __forceinline__ Run of(bool keys) const {
    return keys ? Run(start >> 16, (end >> 16) - (start >> 16))
                : Run(start & 0xFFFFu, (end & 0xFFFFu) - (start & 0xFFFFu));
  }
};

/// A bucket of more than few_rows rows of one side, and its number among the crowded buckets that the block
/// lists for the direction in which these rows are partners, or `unlisted`.
struct LargeBucket {
  static constexpr std::uint32_t unlisted = 0xFFFFu;
  std::uint32_t word;
  __device__ __forceinline__ LargeBucket(std::uint32_t code, bool is_key, std::uint32_t number)
      : word(number << 16 | (is_key ? 0x8000u : 0u) | code) {}
  __device__ __forceinline__ std::uint32_t code() const { return word & 0x7FFFu; }
  __device__ __forceinline__ bool is_key() const { return (word & 0x8000u) != 0; }
  __device__ __forceinline__ std::uint32_t number() const { return word >> 16; }
};

/// Shared memory of a block.
struct Memory {
  enum Counter : int { large, listed_of_queries, listed_of_keys, base_of_queries, base_of_keys, counter_count };
  std::uint32_t* table;  ///< [codes + 1] counts, later starts, of both sides
  std::uint32_t* counters;
  std::uint32_t* warp_totals;
  LargeBucket* large_buckets;
  Id *q_order, *k_order;

  static constexpr int fixed_words = scan_words + 8 + warp_lanes;
  __host__ __device__ static int most_large(int length, bool both) {
    return (both ? 2 : 1) * (length / (few_rows + 1));
  }
  __device__ Memory(std::uint32_t* shared, int codes, int length, bool both) {
    table = shared;
    counters = table + codes + scan_words;
    warp_totals = counters + 8;
    large_buckets = reinterpret_cast<LargeBucket*>(warp_totals + warp_lanes);
    k_order = reinterpret_cast<Id*>(large_buckets + most_large(length, both));
    q_order = both ? k_order + (length + 1) / 2 * 2 : nullptr;
  }
  static int bytes(int codes, int length, bool both) {
    return 4 * (codes + fixed_words + most_large(length, both) + (length + 1) / 2 * (both ? 2 : 1));
  }
  __device__ __forceinline__ CodeRanges ranges(std::uint32_t code) const {
    return {table[code], table[code + 1]};
  }
  __device__ __forceinline__ Id* order(bool keys) const { return keys ? k_order : q_order; }
};

/// Ranks the rows of one bucket by comparing all pairs: a lane takes up to `most` / 32 of them.
template <int most>
__device__ __forceinline__ void rank_by_pairs(Id* bucket, int count, int lane) {
  constexpr int each = most / warp_lanes;
  std::uint32_t id[each], rank[each] = {};
#pragma unroll
  for (int v = 0; v < each; ++v)
    id[v] = v * warp_lanes + lane < count ? bucket[v * warp_lanes + lane] : 0xFFFFFFFFu;
#pragma unroll
  for (int v = 0; v < each; ++v) {
    for (int i = 0; i < min(warp_lanes, count - v * warp_lanes); ++i) {
      const std::uint32_t other = __shfl_sync(0xFFFFFFFFu, id[v], i);
#pragma unroll
      for (int w = 0; w < each; ++w) rank[w] += other < id[w] ? 1 : 0;
    }
  }
  __syncwarp();
#pragma unroll
  for (int v = 0; v < each; ++v)
    if (v * warp_lanes + lane < count) bucket[rank[v]] = static_cast<Id>(id[v]);
}

/// Ranks the rows of one bucket by a walk over all rows of the sequence.
__device__ __forceinline__ void rank_by_walk(const std::uint16_t* codes, std::uint32_t code, int length,
                                             Id* bucket, int lane) {
  constexpr int ahead = 8;  // loads in flight
  for (int first = lane; first - lane < length; first += ahead * warp_lanes) {
    bool is_inside[ahead];
#pragma unroll
    for (int v = 0; v < ahead; ++v) {
      const int row = first + v * warp_lanes;
      is_inside[v] = row < length && codes[row] == code;
    }
#pragma unroll
    for (int v = 0; v < ahead; ++v) {
      const std::uint32_t found = __ballot_sync(0xFFFFFFFFu, is_inside[v]);
      if (is_inside[v]) bucket[__popc(found & ((1u << lane) - 1))] = static_cast<Id>(first + v * warp_lanes);
      bucket += __popc(found);
    }
  }
}

/// Ranks the rows of large buckets, a warp for each.
__device__ __forceinline__ void rank_large(const Work& work, const Memory& memory, std::int64_t place,
                                           int length) {
  const int warps = static_cast<int>(blockDim.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const int large = static_cast<int>(memory.counters[Memory::large]);
  for (int i = static_cast<int>(threadIdx.x) / warp_lanes; i < large; i += warps) {
    const LargeBucket bucket = memory.large_buckets[i];
    const Run run = memory.ranges(bucket.code()).of(bucket.is_key());
    const int count = static_cast<int>(run.count());
    Id* rows = memory.order(bucket.is_key()) + run.first();
    if (count <= warp_lanes)
      rank_by_pairs<warp_lanes>(rows, count, lane);
    else if (count <= 4 * warp_lanes)
      rank_by_pairs<4 * warp_lanes>(rows, count, lane);
    else
      rank_by_walk((bucket.is_key() ? work.k.codes : work.q.codes) + place, bucket.code(), length, rows, lane);
  }
}

/// Room for the block's crowded buckets, by one thread.
__device__ __forceinline__ void take_room(const CrowdedBuckets& crowded, int segment, std::uint32_t count,
                                          std::uint32_t& base) {
  if (count > 0) base = atomicAdd(crowded.count + segment, count);
}

__device__ __forceinline__ void list_crowded(const Work& work, const Memory& memory, int list, int sequence) {
  const int segment = work.q.crowded.segments > 1 ? list % work.hashes : 0;
  const int large = static_cast<int>(memory.counters[Memory::large]);
  for (int i = static_cast<int>(threadIdx.x); i < large; i += static_cast<int>(blockDim.x)) {
    const LargeBucket bucket = memory.large_buckets[i];
    if (bucket.number() == LargeBucket::unlisted) continue;
    const CodeRanges ranges = memory.ranges(bucket.code());
    const Run own = ranges.of(!bucket.is_key()), partner = ranges.of(bucket.is_key());
    const CrowdedBuckets& crowded = bucket.is_key() ? work.q.crowded : work.k.crowded;
    const std::uint32_t base =
        memory.counters[bucket.is_key() ? Memory::base_of_queries : Memory::base_of_keys];
    crowded.buckets[segment * crowded.capacity + base + bucket.number()] = {
        list, sequence, bucket.code(), own.first(), own.count(), partner.first(), partner.count()};
  }
}

}  // namespace tern::kernels::matching
