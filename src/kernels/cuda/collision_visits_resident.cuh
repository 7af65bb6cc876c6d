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
/// range, then by class: by bin. A pair of bins shares a word of counters for each lane.
constexpr int classes = 8, bin_pairs = classes / 2, range_words = bin_pairs * warp_lanes;
constexpr int most_ranges = 16;

/// Offset of chunk `chunk` of a row, as the copy engine swizzles them.
__device__ __forceinline__ std::uint32_t place(std::uint32_t row, int chunk) {
  return row * (2 * width) + ((static_cast<std::uint32_t>(chunk) ^ row % 8) << 4);
}

struct WarpMemory {
  static constexpr int capacity = 1088;
  Slot list[capacity];
  std::uint16_t offsets[most_ranges + 2];  ///< of ranges in the list
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
  /// Ranges whose counters fit into one stage's memory.
  static constexpr int ranges_beside_stage = static_cast<int>(sizeof(Stage)) / (warps * range_words * 4);
  static constexpr int longest = rows * most_ranges;  ///< sequence
  static_assert(most_ranges < 2 * ranges_beside_stage);

  /// Memory of a warp's counters: in the second stage, which is still free, or in both.
  __device__ __forceinline__ std::uint32_t* counters(int warp_index, bool beside_stage) {
    const int ranges = beside_stage ? ranges_beside_stage : 2 * ranges_beside_stage;
    return reinterpret_cast<std::uint32_t*>(stage + (beside_stage ? 1 : 0)) + warp_index * ranges * range_words;
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

  /// Fills memory.list and memory.offsets with the entries from `window` on. `counters` of one more range than
  /// there are, which takes what is no entry, are free to use.
  __device__ void sort(WarpMemory& memory, std::uint32_t* counters, int ranges, int window) const {
    const std::uint32_t lane = threadIdx.x % warp_lanes;
    const std::uint32_t no_id = ranges * stage_rows, no_entry = entry_of(no_id);
    const Window rows{max(window - static_cast<int>(before), 0),
                      min(window + WarpMemory::capacity - static_cast<int>(before), static_cast<int>(count))};
    auto* const own = reinterpret_cast<unsigned char*>(counters + lane);
    const auto counter = [&](std::uint32_t entry) -> std::uint16_t& {
      return *reinterpret_cast<std::uint16_t*>(own + (entry >> 16));
    };
    const auto append = [&](std::uint32_t entry) {
      const std::uint32_t rank = counter(entry);
      counter(entry) = static_cast<std::uint16_t>(rank + 1);
      return entry + (rank << entry_row_bits);
    };
    const auto slot_of = [](std::uint32_t entry, int row) {
      return (entry & entry_row_mask) | static_cast<std::uint32_t>(row) << row_bits;
    };
    std::uint32_t entries[2 * tile_rows];
    load(rows, no_id, entries);
    for (int i = 0; i <= ranges; ++i)
      store_pack(counters + i * range_words + 4 * lane, Pack<std::uint32_t, 4>{});
    __syncwarp();
    for_each_behind(rows, [&](std::uint32_t id, int) { append(entry_of(id)); });
#pragma unroll
    for (std::uint32_t& entry : entries) entry = append(entry_of(entry));
    __syncwarp();
    std::uint32_t base = 0;
    for (int first = 0; first < ranges * bin_pairs; first += warp_lanes)
      base = scan_bins(memory, counters, first, ranges * bin_pairs, base);
    if (lane == 0) memory.offsets[ranges] = static_cast<std::uint16_t>(base);
    __syncwarp();
    // places are read before the first slot is written: the compiler could not tell that they do not change
#pragma unroll
    for (int i = 0; i < 2 * tile_rows; ++i) {
      const std::uint32_t entry = entries[i],
                          place = counter(entry) + (entry >> entry_row_bits & entry_rank_mask);
      entries[i] = entry < no_entry ? place << 16 | slot_of(entry, i / 2) : no_slot;
    }
#pragma unroll
    for (const std::uint32_t slot : entries)
      if (slot != no_slot) memory.list[slot >> 16] = static_cast<Slot>(slot);
    for_each_behind(rows, [&](std::uint32_t id, int row) {
      const std::uint32_t entry = entry_of(id);
      memory.list[counter(entry)++] = static_cast<Slot>(slot_of(entry, row));
    });
    __syncwarp();
  }

 private:
  /// An entry on its way to the list: the offset of its bin's counter, how many of the lane's entries of the
  /// bin come before it, and its row in the stage.
  static constexpr int entry_row_bits = 10;
  static constexpr std::uint32_t entry_row_mask = (1u << entry_row_bits) - 1, entry_rank_mask = 63;
  static constexpr std::uint32_t no_slot = 0xFFFFFFFF;
  static_assert(stage_rows <= 1 << entry_row_bits);
  static_assert((WarpMemory::capacity + (warp_lanes - 1) * tile_rows) / warp_lanes <= entry_rank_mask);

  __device__ static __forceinline__ std::uint32_t entry_of(std::uint32_t id) {
    constexpr auto rows = static_cast<std::uint32_t>(stage_rows);
    constexpr std::uint32_t range_bytes = 4 * range_words, pair_bytes = 4 * warp_lanes;
    return id + id / rows * ((range_bytes << 16) - rows) + (id & 6) * (pair_bytes / 2 << 16) +
           (id & 1) * (2u << 16);
  }

  /// A window of the rows' joined lists: entries low .. high - 1 of row lane % 16.
  struct Window {
    int low, high;
  };
  /// Two ids of each row, 32 entries apart, for each lane; `no_id` behind the last.
  __device__ __forceinline__ void load(const Window& window, std::uint32_t no_id,
                                       std::uint32_t (&loaded)[2 * tile_rows]) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
    for (int row = 0; row < tile_rows; ++row) {
      const int left = __shfl_sync(0xFFFFFFFFu, window.high - window.low, row) - lane;
      const Id* from = ids + (__shfl_sync(0xFFFFFFFFu, first + window.low, row) + lane);
      loaded[2 * row] = 0 < left ? from[0] : no_id;
      loaded[2 * row + 1] = warp_lanes < left ? from[warp_lanes] : no_id;
    }
  }
  /// body(id, row) for the window's entries that load() leaves out.
  template <class Body>
  __device__ __forceinline__ void for_each_behind(const Window& window, const Body& body) const {
    constexpr int loaded = 2 * warp_lanes;
    if (__any_sync(0xFFFFFFFFu, window.high - window.low > loaded) == 0) return;
#pragma unroll 1
    for (int row = 0; row < tile_rows; ++row) {
      const int left = __shfl_sync(0xFFFFFFFFu, window.high - window.low, row);
      const Id* from = ids + __shfl_sync(0xFFFFFFFFu, first + window.low, row);
#pragma unroll 1
      for (int i = loaded + static_cast<int>(threadIdx.x) % warp_lanes; i < left; i += warp_lanes)
        body(from[i], row);
    }
  }

  /// Turns the counters of bins 2 i and 2 i + 1, i = `first_pair` + lane, into places in the list from `base`
  /// on.
  __device__ __forceinline__ std::uint32_t scan_bins(WarpMemory& memory, std::uint32_t* counters,
                                                     int first_pair, int pairs, std::uint32_t base) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, pair = first_pair + lane;
    std::uint32_t* const words = counters + pair * warp_lanes;
    using Quad = Pack<std::uint32_t, 4>;
    const auto quad = [&](int i) {
      return words + 4 * (i ^ lane % 8);
    };  // of other banks than the lanes' beside
    std::uint32_t total = 0;
    if (pair < pairs) {
#pragma unroll
      for (int i = 0; i < warp_lanes / 4; ++i) {
        const Quad counts = load_pack<4>(quad(i));
        total += counts.item[0] + counts.item[1] + counts.item[2] + counts.item[3];
      }
    }
    const std::uint32_t even = total & 0xFFFF, both = even + (total >> 16), end = inclusive_sum(both);
    const std::uint32_t start = base + end - both;
    std::uint32_t next = start | (start + even) << 16;
    if (pair < pairs) {
      if (pair % bin_pairs == 0) memory.offsets[pair / bin_pairs] = static_cast<std::uint16_t>(start);
#pragma unroll
      for (int i = 0; i < warp_lanes / 4; ++i) {
        Quad counts = load_pack<4>(quad(i));
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          const std::uint32_t here = next;
          next += counts.item[u];
          counts.item[u] = here;
        }
        store_pack(quad(i), counts);
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
