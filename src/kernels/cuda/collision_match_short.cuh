// Matching in shared memory: what a block holds, and how its buckets come into the order of the sequence.
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
  __device__ __forceinline__ std::uint32_t start_of(bool keys) const {
    return keys ? start >> 16 : start & 0xFFFFu;
  }
  __device__ __forceinline__ std::uint32_t end_of(bool keys) const { return keys ? end >> 16 : end & 0xFFFFu; }
  __device__ __forceinline__ Run of(bool keys) const {
    return Run(start_of(keys), end_of(keys) - start_of(keys));
  }
};

/// A bucket of more than few_rows rows of one side.
struct LargeBucket {
  std::uint16_t word;
  __device__ __forceinline__ LargeBucket(int code, bool is_key)
      : word(static_cast<std::uint16_t>((is_key ? 0x8000 : 0) | code)) {}
  __device__ __forceinline__ int code() const { return word & 0x7FFF; }
  __device__ __forceinline__ bool is_key() const { return (word & 0x8000) != 0; }
};

/// Shared memory of a block of `warps` warps.
template <int warps>
struct Memory {
  static constexpr int threads = warps * warp_lanes;
  /// Large buckets of up to warp_lanes rows are narrow, the others are wide.
  enum Counter : int { narrow, wide, narrow_taken, wide_taken, counter_count };
  Run* runs;  ///< [warps][most_runs]
  std::uint32_t* warp_totals;
  std::uint32_t* counters;
  /// [codes] of both sides, a zero before: counts, after the scan starts, after the rows' placement ends. Where
  /// only queries have a direction, their halves are 0 but for the numbers of those that meet a large bucket.
  std::uint32_t* table;
  Id *k_order, *q_order;
  LargeBucket* large_buckets;  ///< wide ones from the front, narrow ones from the back
  int most_large;
  std::uint32_t* row_sets;  ///< [set_words(length)] of each warp that ranks wide buckets

  static constexpr int most_runs = warp_lanes + scan_words, fixed_words = warps * most_runs + warp_lanes;
  static constexpr int before_table = counter_count + 4;
  static_assert(fixed_words % 4 == 0 && before_table % 4 == 0);
  /// Counters and table, in multiples of 16 bytes.
  __host__ __device__ static constexpr int cleared_words(int codes) {
    return before_table + (codes + 3) / 4 * 4 + scan_words;
  }
  __host__ __device__ static constexpr int order_size(int length) { return (length + 7) / 8 * 8; }
  __host__ __device__ static constexpr int most_large_of(int length, bool both) {
    return (both ? 2 : 1) * (length / (few_rows + 1)) / 2 * 2 + 2;
  }
  /// A bit for each row, a power of two of words a lane.
  __host__ __device__ static constexpr int set_words(int length) {
    const auto lane_rows = static_cast<unsigned>((length + warp_lanes - 1) / warp_lanes);
    return warp_lanes * static_cast<int>(std::bit_ceil((lane_rows + warp_lanes - 1) / warp_lanes));
  }
  __device__ Memory(std::uint32_t* shared, int codes, int length, bool both) {
    runs = reinterpret_cast<Run*>(shared);
    warp_totals = shared + warps * most_runs;
    counters = shared + fixed_words;
    table = counters + before_table;
    k_order = reinterpret_cast<Id*>(counters + cleared_words(codes));
    q_order = k_order + order_size(length);
    large_buckets = reinterpret_cast<LargeBucket*>(both ? q_order + order_size(length) : q_order);
    most_large = most_large_of(length, both);
    row_sets = reinterpret_cast<std::uint32_t*>(large_buckets + most_large);
  }
  /// `sets`: warps that rank wide buckets.
  static constexpr int bytes(int codes, int length, bool both, int sets) {
    return 4 * (fixed_words + cleared_words(codes) + order_size(length) / 2 * (both ? 2 : 1) +
                most_large_of(length, both) / 2 + sets * set_words(length));
  }
  __device__ __forceinline__ void add_large(int code, bool is_key, std::uint32_t count) const {
    const auto place = static_cast<int>(atomicAdd(&counters[count > warp_lanes ? wide : narrow], 1u));
    large_buckets[count > warp_lanes ? place : most_large - 1 - place] = LargeBucket(code, is_key);
  }
  __device__ __forceinline__ int large() const { return static_cast<int>(counters[wide] + counters[narrow]); }
  __device__ __forceinline__ LargeBucket large_bucket(int i) const {
    const auto wide_count = static_cast<int>(counters[wide]);
    return large_buckets[i < wide_count ? i : most_large - 1 - (i - wide_count)];
  }
  __device__ __forceinline__ CodeRanges ranges(int code) const { return {table[code - 1], table[code]}; }
  __device__ __forceinline__ Id* order(bool keys) const { return keys ? k_order : q_order; }
};

/// Steps of scan_words codes that a warp takes.
template <int warps>
struct WarpSteps {
  static_assert(std::has_single_bit(unsigned{warps}));
  int first, last;
  __device__ __forceinline__ explicit WarpSteps(int codes) {
    const int warp = static_cast<int>(threadIdx.x) / warp_lanes, steps = (codes + scan_words - 1) / scan_words,
              share = max(1, steps / warps);  // codes and warps are powers of two
    first = min(steps, warp * share);
    last = min(steps, first + share);
  }
};

/// Sorts up to few_rows places: Batcher's merge exchange (The Art of Computer Programming 3, 5.2.2 M).
__device__ __forceinline__ void sort_run(Id* bucket, std::uint32_t count) {
  static_assert(few_rows == 8);
  std::uint32_t id[few_rows];
#pragma unroll
  for (std::uint32_t i = 0; i < few_rows; ++i) id[i] = i < count ? bucket[i] : 0xFFFFu;
  const auto exchange = [&](int a, int b) {
    const std::uint32_t smaller = min(id[a], id[b]);
    id[b] = max(id[a], id[b]);
    id[a] = smaller;
  };
  exchange(0, 1), exchange(2, 3), exchange(4, 5), exchange(6, 7);
  exchange(0, 2), exchange(1, 3), exchange(4, 6), exchange(5, 7);
  exchange(1, 2), exchange(5, 6);
  exchange(0, 4), exchange(1, 5), exchange(2, 6), exchange(3, 7);
  exchange(2, 4), exchange(3, 5);
  exchange(1, 2), exchange(3, 4), exchange(5, 6);
#pragma unroll
  for (std::uint32_t i = 0; i < few_rows; ++i)
    if (i < count) bucket[i] = static_cast<Id>(id[i]);
}

/// Sorts the rows of small buckets, which came in any order, and notes large ones. Few buckets have more than
/// two rows: a warp lists its own, so that all of its lanes sort.
template <int warps>
struct BucketSorter {
  const Memory<warps>& memory;
  Run* runs;  ///< of the warp; places count from the keys' order on
  int lane, listed = 0;

  __device__ __forceinline__ explicit BucketSorter(const Memory<warps>& memory)
      : memory(memory),
        runs(memory.runs + threadIdx.x / warp_lanes * Memory<warps>::most_runs),
        lane(static_cast<int>(threadIdx.x) % warp_lanes) {}

  __device__ __forceinline__ void sort_listed() {
    __syncwarp();
    for (int i = lane; i < listed; i += warp_lanes) sort_run(memory.k_order + runs[i].first(), runs[i].count());
    __syncwarp();
    listed = 0;
  }
  /// Four codes of a lane: their starts and the last one's end.
  template <bool keys>
  __device__ __forceinline__ void take(int code, const std::uint32_t (&bounds)[5]) {
    constexpr int codes = 4;
    const std::uint32_t base = keys ? 0 : static_cast<std::uint32_t>(memory.q_order - memory.k_order);
    std::uint32_t start[codes + 1];
#pragma unroll
    for (int j = 0; j <= codes; ++j) start[j] = base + (keys ? bounds[j] >> 16 : bounds[j] & 0xFFFFu);
    Id first[codes] = {}, second[codes] = {};
#pragma unroll
    for (int j = 0; j < codes; ++j) {
      if (start[j + 1] - start[j] == 2) first[j] = memory.k_order[start[j]];
      if (start[j + 1] - start[j] == 2) second[j] = memory.k_order[start[j] + 1];
    }
    std::uint32_t most = 0;
#pragma unroll
    for (int j = 0; j < codes; ++j) {
      const std::uint32_t count = start[j + 1] - start[j];
      if (first[j] > second[j]) memory.k_order[start[j]] = second[j];
      if (first[j] > second[j]) memory.k_order[start[j] + 1] = first[j];
      const bool is_listed = count > 2 && count <= few_rows;
      const std::uint32_t all = __ballot_sync(0xFFFFFFFFu, is_listed);
      if (is_listed) runs[listed + __popc(all & ((1u << lane) - 1))] = Run(start[j], count);
      listed += __popc(all);
      most = max(most, count);
    }
    if (most > few_rows) {
#pragma unroll
      for (int j = 0; j < codes; ++j)
        if (start[j + 1] - start[j] > few_rows) memory.add_large(code + j, keys, start[j + 1] - start[j]);
    }
    if (listed > warp_lanes) sort_listed();
  }
};

template <bool both, int warps>
__device__ __forceinline__ void sort_buckets(const Memory<warps>& memory, int codes) {
  BucketSorter<warps> sorter(memory);
  const WarpSteps<warps> steps(codes);
  for (int step = steps.first; step < steps.last; ++step) {
    const int code = step * scan_words + 4 * sorter.lane;
    const uint4 x = *reinterpret_cast<const uint4*>(memory.table + code);
    const std::uint32_t before = __shfl_up_sync(0xFFFFFFFFu, x.w, 1);
    const std::uint32_t bounds[5] = {sorter.lane == 0 ? memory.table[code - 1] : before, x.x, x.y, x.z, x.w};
    sorter.template take<true>(code, bounds);
    if constexpr (both) sorter.template take<false>(code, bounds);
  }
  sorter.sort_listed();
}

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
template <int warps>
__device__ __forceinline__ void rank_large(const Memory<warps>& memory, int length, int sets) {
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const auto wide = static_cast<int>(memory.counters[Memory<warps>::wide]),
             narrow = static_cast<int>(memory.counters[Memory<warps>::narrow]);
  const auto rank = [&](const LargeBucket& bucket, const auto& by) {
    const Run run = memory.ranges(bucket.code()).of(bucket.is_key());
    by(memory.order(bucket.is_key()) + run.first(), static_cast<int>(run.count()));
  };
  if (wide > 0 && warp < sets) {
    const int words = Memory<warps>::set_words(length);
    for (int i; (i = take_next(memory.counters + Memory<warps>::wide_taken, wide, lane)) >= 0;)
      rank(memory.large_buckets[i],
           [&](Id* rows, int count) { rank_by_set(memory.row_sets + warp * words, words, rows, count, lane); });
  }
  if (narrow == 0) return;
  for (int i; (i = take_next(memory.counters + Memory<warps>::narrow_taken, narrow, lane)) >= 0;)
    rank(memory.large_buckets[memory.most_large - 1 - i],
         [&](Id* rows, int count) { rank_by_pairs(rows, count, lane); });
}

/// Lists the large buckets that rows of the other side meet. A warp takes room for 32 of them at a time.
template <bool both, int warps>
__device__ __forceinline__ void list_crowded(const Work& work, const Memory<warps>& memory, int list,
                                             int sequence) {
  const int segment = work.q.crowded.segments > 1 ? list % work.hashes : 0;
  const int large = memory.large(), lane = static_cast<int>(threadIdx.x) % warp_lanes;
  for (int i = static_cast<int>(threadIdx.x); i - lane < large; i += Memory<warps>::threads) {
    const LargeBucket bucket = memory.large_bucket(i < large ? i : 0);
    const bool is_key = bucket.is_key();
    const CodeRanges ranges = memory.ranges(bucket.code());
    const Run partner = ranges.of(is_key), own = both ? ranges.of(!is_key) : Run(0, ranges.end & 0xFFFFu);
    const auto add = [&](const CrowdedBuckets& crowded, bool is_added) {
      const std::uint32_t all = __ballot_sync(0xFFFFFFFFu, is_added);
      if (all == 0) return;
      std::uint32_t base = 0;
      if (lane == 0) base = atomicAdd(crowded.count + segment, static_cast<std::uint32_t>(__popc(all)));
      base = __shfl_sync(0xFFFFFFFFu, base, 0) + __popc(all & ((1u << lane) - 1));
      if (is_added)
        crowded.buckets[segment * crowded.capacity + base] = {
            list,           sequence,    static_cast<std::uint32_t>(bucket.code()),
            own.first(),    own.count(), partner.first(),
            partner.count()};
    };
    const bool is_met = i < large && own.count() > 0;
    add(work.q.crowded, is_met && is_key);
    if (both) add(work.k.crowded, is_met && !is_key);
  }
}

}  // namespace tern::kernels::matching
