// Stages of partners' rows in shared memory, and how a warp orders its partners: by stage, then so that rows
// read together lie in different banks.
#pragma once

#include "kernels/cuda/collision_visits_rows.cuh"
#include "kernels/cuda/hopper.cuh"

namespace tern::kernels::resident {

constexpr int warps = 16, threads = warps * warp_lanes;
constexpr int tile_rows = 16, own_rows = warps * tile_rows;
constexpr int width = 64;     // of rows
constexpr int box_rows = 64;  // of the copy engine

/// A partner: its row in the stage and its owner in the warp's tile; tile_rows owns empty slots.
using Slot = std::uint16_t;
constexpr int row_bits = 11;
constexpr std::uint32_t row_mask = (1u << row_bits) - 1;
/// Of one of two slots in a word.
__device__ __forceinline__ std::uint32_t owner_of(std::uint32_t slots, int tile) {
  return tile == 0 ? (slots & 0xFFFF) >> row_bits : slots >> (16 + row_bits);
}

/// Rows of different classes row % 8 have their chunks of 16 bytes in different banks. Partners are sorted by
/// range, then by class: by bin.
constexpr int classes = 8;
constexpr int most_ranges = 16, most_bins = most_ranges * classes;
/// A bin has a counter for each lane; the odd number of words keeps bins in different banks.
constexpr int bin_words = warp_lanes / 2 + 1;

/// Offset of chunk `chunk` of a row, as the copy engine swizzles them.
__device__ __forceinline__ std::uint32_t place(std::uint32_t row, int chunk) {
  return row * (2 * width) + ((static_cast<std::uint32_t>(chunk) ^ row % 8) << 4);
}

struct WarpMemory {
  static constexpr int capacity = 976;
  Slot list[capacity];
  std::uint16_t offsets[most_bins + 8];  ///< of bins in the list
};

/// Stages of `kinds` rows of each partner: x alone, or y and x.
template <int kinds>
struct BlockMemory {
  static constexpr int rows = 768 / kinds;  ///< of a stage
  struct Stage {
    bfloat16 row[kinds][rows * width];
  } stage[2];
  WarpMemory warp[warps];
  std::uint64_t full[2];      ///< barriers: the stage has arrived
  std::uint32_t finished[2];  ///< warps that are done with the stage
  /// Bins whose counters fit into one stage's memory.
  static constexpr int bins_beside_stage = static_cast<int>(sizeof(Stage)) / (warps * bin_words * 4);
  static constexpr int longest = rows * std::min(most_ranges, 2 * bins_beside_stage / classes);  ///< sequence

  /// Memory of a warp's counters: in the second stage, which is still free, or in both.
  __device__ __forceinline__ std::uint32_t* counters(int warp_index, bool beside_stage) {
    const int bins = beside_stage ? bins_beside_stage : 2 * bins_beside_stage;
    return reinterpret_cast<std::uint32_t*>(stage + (beside_stage ? 1 : 0)) + warp_index * bins * bin_words;
  }

  /// Makes the barriers, by one thread.
  __device__ __forceinline__ void prepare() {
    for (int buffer = 0; buffer < 2; ++buffer) {
      hopper::init_barrier(shared_address(&full[buffer]), 1);
      finished[buffer] = 0;
    }
    hopper::publish_barriers();
  }

  /// Starts the copies of range `index` of the partners' rows, by one thread. Rows behind the sequence, which
  /// nobody reads, come along.
  __device__ __forceinline__ void copy(int index, const CUtensorMap (&maps)[kinds], const SequenceRange& range,
                                       int head) {
    const int first = index * rows, boxes = (min(rows, range.length - first) + box_rows - 1) / box_rows;
    if (boxes <= 0) return;
    const std::uint32_t barrier = shared_address(full + index % 2);
    constexpr int box = box_rows * width;
    Stage& to = stage[index % 2];
    hopper::arrive_expecting(barrier, kinds * boxes * box * static_cast<int>(sizeof(bfloat16)));
    for (int i = 0; i < boxes; ++i) {
#pragma unroll
      for (int kind = 0; kind < kinds; ++kind)
        hopper::copy_box(shared_address(to.row[kind] + i * box), maps[kind], barrier, 0, head,
                         range.begin + first + i * box_rows);
    }
  }

  /// One lane of each warp says that the warp has read its stage. True for the last one.
  __device__ __forceinline__ bool finish(int buffer) {
    __threadfence_block();
    if (atomicAdd(&finished[buffer], 1u) != warps - 1) return false;
    finished[buffer] = 0;
    __threadfence_block();
    return true;
  }
};

/// The partners of a warp's rows, sorted by bin; stages have `stage_rows`.
template <int stage_rows, class Id>
struct PartnerPlan {
  const Id* ids;
  std::uint32_t first, count, before;  ///< of row lane % 16: its entries, and those of the rows before it
  int total;

  __device__ PartnerPlan(const PartnerLists<Id>& lists, const WarpRows& own)
      : ids(lists.ids + own.head * lists.id_stride), first(0), count(0) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
    if (lane < own.count) {
      const EntryRange range = lists.few[own.head * lists.tokens + own.first + lane];
      first = range.first;
      count = range.count;
    }
    const std::uint32_t end = inclusive_sum(count);
    before = end - count;
    total = static_cast<int>(__shfl_sync(0xFFFFFFFFu, end, warp_lanes - 1));
  }

  /// The first entries of each row in a window of the rows' joined lists, spread over the lanes.
  struct Entries {
    std::uint32_t pair[tile_rows];                 ///< two ids of each row, 32 entries apart
    int low, high;                                 ///< the window's entries of row lane % 16
    static constexpr std::uint32_t none = 0xFFFF;  // sequences are shorter
  };
  __device__ __forceinline__ Entries load(int window) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
    Entries entries;
    entries.low = max(window - static_cast<int>(before), 0);
    entries.high = min(window + WarpMemory::capacity - static_cast<int>(before), static_cast<int>(count));
#pragma unroll
    for (int row = 0; row < tile_rows; ++row) {
      const int skipped = __shfl_sync(0xFFFFFFFFu, entries.low, row);
      const int left = __shfl_sync(0xFFFFFFFFu, entries.high, row) - skipped - lane;
      const Id* from = ids + __shfl_sync(0xFFFFFFFFu, first, row) + skipped + lane;
      const std::uint32_t early = 0 < left ? from[0] : Entries::none;
      const std::uint32_t late = warp_lanes < left ? from[warp_lanes] : Entries::none;
      entries.pair[row] = early | late << 16;
    }
    return entries;
  }

  /// body(id, row) for all entries of the window, by the lane that owns the entry.
  template <class Body>
  __device__ __forceinline__ void for_each(const Entries& entries, const Body& body) const {
#pragma unroll
    for (int row = 0; row < tile_rows; ++row) {
      const std::uint32_t early = entries.pair[row] & 0xFFFF, late = entries.pair[row] >> 16;
      if (early != Entries::none) body(early, row);
      if (late != Entries::none) body(late, row);
    }
    constexpr int loaded = 2 * warp_lanes;
    if (__any_sync(0xFFFFFFFFu, entries.high - entries.low > loaded) == 0) return;
#pragma unroll 1
    for (int row = 0; row < tile_rows; ++row) {
      const int skipped = __shfl_sync(0xFFFFFFFFu, entries.low, row);
      const int left = __shfl_sync(0xFFFFFFFFu, entries.high, row) - skipped;
      const Id* from = ids + __shfl_sync(0xFFFFFFFFu, first, row) + skipped;
      for (int i = loaded + static_cast<int>(threadIdx.x) % warp_lanes; i < left; i += warp_lanes)
        body(from[i], row);
    }
  }

  /// Fills memory.list and memory.offsets; `counters` [bins][bin_words] is free to use.
  __device__ void sort(WarpMemory& memory, std::uint32_t* counters, int ranges, int window) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, bins = ranges * classes;
    constexpr auto rows = static_cast<std::uint32_t>(stage_rows);
    auto* own = reinterpret_cast<std::uint16_t*>(counters) + lane;
    const auto bin_of = [](std::uint32_t id) { return id / rows * classes + id % classes; };
    const Entries entries = load(window);
    for (int i = lane; i < bins * bin_words; i += warp_lanes) counters[i] = 0;
    __syncwarp();
    for_each(entries, [&](std::uint32_t id, int) { ++own[bin_of(id) * (2 * bin_words)]; });
    __syncwarp();
    std::uint32_t base = 0;
    for (int first_bin = 0; first_bin < bins; first_bin += warp_lanes)
      base = scan_bins(memory, counters + (first_bin + lane) * bin_words, first_bin + lane, bins, base);
    if (lane == 0) memory.offsets[bins] = static_cast<std::uint16_t>(base);
    __syncwarp();
    for_each(entries, [&](std::uint32_t id, int row) {
      const std::uint32_t at = own[bin_of(id) * (2 * bin_words)]++;
      memory.list[at] = static_cast<Slot>(id % rows | static_cast<std::uint32_t>(row) << row_bits);
    });
    __syncwarp();
  }

 private:
  /// Turns the counters of a bin, one for each lane, into places in the list from `base` on; a bin a lane.
  __device__ __forceinline__ std::uint32_t scan_bins(WarpMemory& memory, std::uint32_t* counters, int bin,
                                                     int bins, std::uint32_t base) const {
    std::uint32_t pair[warp_lanes / 2], total = 0;
#pragma unroll
    for (int i = 0; i < warp_lanes / 2; ++i) {
      pair[i] = bin < bins ? counters[i] : 0;
      total += pair[i];
    }
    total = (total & 0xFFFF) + (total >> 16);
    const std::uint32_t end = inclusive_sum(total);
    std::uint32_t next = base + end - total;
    if (bin < bins) {
      memory.offsets[bin] = static_cast<std::uint16_t>(next);
#pragma unroll
      for (int i = 0; i < warp_lanes / 2; ++i) {
        const std::uint32_t second = next + (pair[i] & 0xFFFF);
        counters[i] = next | second << 16;
        next = second + (pair[i] >> 16);
      }
    }
    return base + __shfl_sync(0xFFFFFFFFu, end, warp_lanes - 1);
  }

  __device__ static __forceinline__ std::uint32_t inclusive_sum(std::uint32_t x) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
    for (int step = 1; step < warp_lanes; step *= 2) {
      const std::uint32_t other = __shfl_up_sync(0xFFFFFFFFu, x, step);
      if (lane >= step) x += other;
    }
    return x;
  }
};

/// Rows that are cleared, of no sequence, as a block's share.
__device__ __forceinline__ void clear_rows(const Heads<bfloat16>& rows, const SequenceRange& range, int head) {
  const std::int64_t size = static_cast<std::int64_t>(range.length) * width;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < size;
       i += static_cast<std::int64_t>(gridDim.x) * threads)
    row_of(rows, range.begin + i / width, head)[i % width] = {};
}

/// The 16 partners of a step: place i % 8 of each of two tiles, by lane i. Slot i of step s takes partner
/// i * steps + s of a stage's, which are sorted by class: only the last slots stay empty, and the eight of a
/// tile lie so far apart that they are nearly always of different classes.
struct StepSlots {
  const Slot* list;
  int count, steps, at;
  Slot empty, next[2];

  /// `rows` of the stage exist.
  __device__ __forceinline__ StepSlots(const Slot* list, int count, int rows)
      : list(list), count(count), steps((count + 15) / 16) {
    const int place = static_cast<int>(threadIdx.x) % 8;
    empty = static_cast<Slot>(tile_rows << row_bits | (place < rows ? place : 0));
    at = 2 * place * steps;
    load();
  }
  __device__ __forceinline__ void load() {
    next[0] = at < count ? list[at] : empty;
    next[1] = at + steps < count ? list[at + steps] : empty;
  }
  /// Those of the next step, those of the first tile in the low half.
  __device__ __forceinline__ std::uint32_t take() {
    const std::uint32_t slots = next[0] | static_cast<std::uint32_t>(next[1]) << 16;
    ++at;
    load();
    return slots;
  }
};

}  // namespace tern::kernels::resident
