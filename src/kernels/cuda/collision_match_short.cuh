// Matching in shared memory: what a block holds, and its buckets of many rows, each worked off by a warp.
#pragma once

#include <bit>

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
  /// Large buckets of up to warp_lanes rows are narrow, the others are wide.
  enum Counter : int {
    narrow,
    wide,
    narrow_taken,
    wide_taken,
    listed_of_queries,
    listed_of_keys,
    base_of_queries,
    base_of_keys,
    counter_count
  };
  std::uint32_t* table;  ///< [codes + 1] counts, later starts, of both sides
  std::uint32_t* counters;
  std::uint32_t* warp_totals;
  LargeBucket* large_buckets;  ///< wide ones from the front, narrow ones from the back
  int most_large;
  Id *q_order, *k_order;
  std::uint32_t* row_sets;  ///< [set_words(length)] of each warp that ranks wide buckets

  static constexpr int fixed_words = scan_words + counter_count + warp_lanes;
  __host__ __device__ static constexpr int most_large_of(int length, bool both) {
    return (both ? 2 : 1) * (length / (few_rows + 1));
  }
  /// A bit for each row, a power of two of words a lane.
  __host__ __device__ static constexpr int set_words(int length) {
    const auto lane_rows = static_cast<unsigned>((length + warp_lanes - 1) / warp_lanes);
    return warp_lanes * static_cast<int>(std::bit_ceil((lane_rows + warp_lanes - 1) / warp_lanes));
  }
  __device__ Memory(std::uint32_t* shared, int codes, int length, bool both) {
    table = shared;
    counters = table + codes + scan_words;
    warp_totals = counters + counter_count;
    large_buckets = reinterpret_cast<LargeBucket*>(warp_totals + warp_lanes);
    most_large = most_large_of(length, both);
    k_order = reinterpret_cast<Id*>(large_buckets + most_large);
    q_order = both ? k_order + (length + 1) / 2 * 2 : nullptr;
    row_sets = reinterpret_cast<std::uint32_t*>(k_order + (length + 1) / 2 * (both ? 4 : 2));
  }
  /// `sets`: warps that rank wide buckets.
  static int bytes(int codes, int length, bool both, int sets) {
    return 4 * (codes + fixed_words + most_large_of(length, both) + (length + 1) / 2 * (both ? 2 : 1) +
                sets * set_words(length));
  }
  __device__ __forceinline__ void add_large(const LargeBucket& bucket, std::uint32_t count) const {
    if (count > warp_lanes)
      large_buckets[atomicAdd(&counters[wide], 1u)] = bucket;
    else
      large_buckets[most_large - 1 - static_cast<int>(atomicAdd(&counters[narrow], 1u))] = bucket;
  }
  __device__ __forceinline__ CodeRanges ranges(std::uint32_t code) const {
    return {table[code], table[code + 1]};
  }
  __device__ __forceinline__ Id* order(bool keys) const { return keys ? k_order : q_order; }
};

/// Ranks the rows of a narrow bucket by comparing all pairs: a lane takes one of them.
__device__ __forceinline__ void rank_by_pairs(Id* bucket, int count, int lane) {
  const std::uint32_t id = lane < count ? bucket[lane] : 0xFFFFFFFFu;
  std::uint32_t rank = 0;
#pragma unroll 4
  for (int i = 0; i < count; ++i) rank += __shfl_sync(0xFFFFFFFFu, id, i) < id ? 1 : 0;
  __syncwarp();
  if (lane < count) bucket[rank] = static_cast<Id>(id);
}

/// Ranks the rows of a wide bucket through the set of them: lane after lane, each with neighbouring words,
/// writes its rows. Cost: length / 1,024 + count / 32 words of a lane, and the most rows of one lane.
__device__ __forceinline__ void rank_by_set(std::uint32_t* set, int words, Id* bucket, int count, int lane) {
  const int each = words / warp_lanes, log_each = 31 - __clz(each);
  for (int v = 0; v < each; ++v) set[v * warp_lanes + lane] = 0;
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < count; i += warp_lanes) {
    const int id = bucket[i], word = id / 32;  // a lane's words lie warp_lanes apart, against bank conflicts
    atomicOr(&set[(word & (each - 1)) * warp_lanes + (word >> log_each)], 1u << (id % 32));
  }
  __syncwarp();
  int place = 0;
  for (int v = 0; v < each; ++v) place += __popc(set[v * warp_lanes + lane]);
#pragma unroll
  for (int delta = 1; delta < warp_lanes; delta *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, place, delta);
    if (lane >= delta) place += other;
  }
  for (int v = each - 1; v >= 0; --v) {
    const int first = (lane * each + v) * 32;
    for (std::uint32_t left = set[v * warp_lanes + lane]; left != 0;) {
      const int bit = 31 - __clz(static_cast<int>(left));
      bucket[--place] = static_cast<Id>(first + bit);
      left ^= 1u << bit;
    }
  }
  __syncwarp();
}

/// The warp's next number below `count`, else -1.
__device__ __forceinline__ int take_next(std::uint32_t* taken, int count, int lane) {
  const auto next = lane == 0 ? static_cast<int>(atomicAdd(taken, 1u)) : 0;
  const int number = __shfl_sync(0xFFFFFFFFu, next, 0);
  return number < count ? number : -1;
}

/// Ranks the rows of large buckets by their place in the sequence, a warp for each.
__device__ __forceinline__ void rank_large(const Memory& memory, int length, int sets) {
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const auto wide = static_cast<int>(memory.counters[Memory::wide]),
             narrow = static_cast<int>(memory.counters[Memory::narrow]);
  const auto rank = [&](const LargeBucket& bucket, const auto& by) {
    const Run run = memory.ranges(bucket.code()).of(bucket.is_key());
    by(memory.order(bucket.is_key()) + run.first(), static_cast<int>(run.count()));
  };
  if (wide > 0 && warp < sets) {
    const int words = Memory::set_words(length);
    for (int i; (i = take_next(memory.counters + Memory::wide_taken, wide, lane)) >= 0;)
      rank(memory.large_buckets[i], [&](Id* rows, int count) {
        rank_by_set(memory.row_sets + warp * words, words, rows, count, lane);
      });
  }
  if (narrow == 0) return;
  for (int i; (i = take_next(memory.counters + Memory::narrow_taken, narrow, lane)) >= 0;)
    rank(memory.large_buckets[memory.most_large - 1 - i],
         [&](Id* rows, int count) { rank_by_pairs(rows, count, lane); });
}

/// Room for the block's crowded buckets, by one thread.
__device__ __forceinline__ void take_room(const CrowdedBuckets& crowded, int segment, std::uint32_t count,
                                          std::uint32_t& base) {
  if (count > 0) base = atomicAdd(crowded.count + segment, count);
}

__device__ __forceinline__ void list_crowded(const Work& work, const Memory& memory, int list, int sequence) {
  const int segment = work.q.crowded.segments > 1 ? list % work.hashes : 0;
  const auto wide = static_cast<int>(memory.counters[Memory::wide]),
             narrow = static_cast<int>(memory.counters[Memory::narrow]);
  for (int i = static_cast<int>(threadIdx.x); i < wide + narrow; i += static_cast<int>(blockDim.x)) {
    const LargeBucket bucket = memory.large_buckets[i < wide ? i : memory.most_large - 1 - (i - wide)];
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
