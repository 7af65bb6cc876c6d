// How often rows collide, as dense tiles of bytes in shared memory: B_ij = number of hashes in which own row i
// and partner j of a sequence have the same code. Counts are integers, so that the order in which they are made
// is of no importance. Buckets of more than few_rows partners (collisions.h) are left out.
//
// Words of own rows come from a CollisionFinder in the form of words; either side may be the own one. All
// threads of a block, or a part of them with a barrier of their own, build a CountTile; a barrier by the caller
// comes before (the memory is free) and after (the counts are complete). A lane then loads what it needs of 64
// columns of a row in one access: word u holds its elements of block u of 16 columns, in accumulators and in
// operands A alike, and count_fragment() makes an operand A of the words of two rows.
#pragma once

#include "kernels/cuda/attention_place.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/collisions.cuh"

namespace tern::kernels {

struct CountSource {
  const std::uint32_t* words;  ///< [heads * hashes][tokens] CountWord of the own rows
  const std::uint16_t* order;  ///< [heads * hashes][tokens] of the partners
  std::int64_t tokens;
  int hashes, place_bits;
};

/// Adds `amount` to a word of shared memory where i < count and place < end; without a branch.
__device__ __forceinline__ void add_to_word(std::uint32_t address, std::uint32_t amount, std::uint32_t i,
                                            std::uint32_t count, std::uint32_t place, std::uint32_t end) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.lt.u32 p, %2, %3;\nsetp.lt.and.u32 p, %4, %5, p;\n"
      "@p red.shared.add.u32 [%0], %1;\n}" ::"r"(address),
      "r"(amount), "r"(i), "r"(count), "r"(place), "r"(end)
      : "memory");
}

/// `rows` own rows by `columns` partners, one byte each, in shared memory at a multiple of `columns`.
/// The `threads` that build and wait for each other at barrier `barrier`, 0 for a whole block, start at a
/// multiple of their number.
template <int rows, int columns, int threads, int barrier = 0>
struct CountTile {
  static constexpr int warps = threads / warp_lanes, row_groups = rows / warp_lanes;
  static constexpr int shares = warps / row_groups;  ///< of the hashes, each taken by one of the warps of a row
  static constexpr int together = 8;                 ///< hashes of a row whose words are in registers at a time
  static constexpr int run_lanes = few_rows, at_once = warp_lanes / run_lanes, runs_together = 6;
  static constexpr int most_runs = together * warp_lanes + at_once * runs_together;  ///< of a warp, and zeros
  static constexpr int mark_words = most_counted_hashes / 32;
  static constexpr int counts_bytes = rows * columns, marks_bytes = rows * mark_words * 4;
  static constexpr int scratch_bytes = marks_bytes + warps * most_runs * 4;
  static_assert(columns >= 128 && (columns & (columns - 1)) == 0 && rows % warp_lanes == 0);
  static_assert(threads % warp_lanes == 0 && warps % row_groups == 0);

  unsigned char *memory, *scratch;  ///< counts_bytes and scratch_bytes; scratch at a multiple of 16

  /// Columns 64 run .. + 63 of `row`, as far as lane 4 g + t needs them.
  __device__ __forceinline__ uint4 load(int row, int run) const {
    const std::uint32_t t = threadIdx.x % 4;
    return *reinterpret_cast<const uint4*>(memory + row * columns + ((run * 64 + t * 16) ^ turn(row)));
  }

  /// A bit for each hash in which the row's bucket is crowded: hash 32 w + b in bit b of word w.
  __device__ __forceinline__ std::uint32_t* marks(int row) const {
    return reinterpret_cast<std::uint32_t*>(scratch) + row * mark_words;
  }

  /// Counts of own rows at.first .. + rows - 1 (those from at.length on are zero) and partners first_column ..
  /// + columns - 1, a multiple of columns, and marks().
  __device__ __forceinline__ void build(const CountSource& source, const AttentionPlace& at,
                                        std::uint32_t first_column) const {
    for (int i = thread(); i < counts_bytes / 16; i += threads) reinterpret_cast<uint4*>(memory)[i] = uint4{};
    for (int i = thread(); i < marks_bytes / 16; i += threads) reinterpret_cast<uint4*>(scratch)[i] = uint4{};
    wait_for_threads();
    const int warp = thread() / warp_lanes;
    const int group = warp % row_groups * warp_lanes, row = group + lane(), own = at.first + row;
    const std::int64_t list = std::int64_t{at.head} * source.hashes * source.tokens + at.begin;
    const std::uint32_t address = row_address(row), mask = (1u << source.place_bits) - 1;
    for (int first = warp / row_groups * together; first < source.hashes; first += shares * together) {
      const std::uint32_t* words = source.words + list + first * source.tokens + own;
      CountWord word[together];
#pragma unroll
      for (int u = 0; u < together; ++u) {
        word[u].word = own < at.length && first + u < source.hashes ? *words : 0;
        words += source.tokens;
      }
#pragma unroll
      for (int u = 0; u < together; ++u) {
#pragma unroll
        for (int i = 0; i < CountWord::most_held; ++i)
          add(address, word[u].word >> i * source.place_bits & mask ^ first_column, i, word[u].held());
      }
      mark_crowded(word, row, first);
      const int runs = note_runs(word);
      add_runs(source, list + first * source.tokens, group, runs, first_column);
    }
  }

 private:
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x) % threads; }
  static __device__ __forceinline__ void wait_for_threads() {
    asm volatile("bar.sync %0, %1;" ::"n"(barrier), "n"(threads) : "memory");
  }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % warp_lanes; }
  /// Odd rows exchange the halves of 128 bytes, so that neighbouring rows meet different banks.
  static __device__ __forceinline__ std::uint32_t turn(int row) {
    return static_cast<std::uint32_t>(row & 1) << 6;
  }
  __device__ __forceinline__ std::uint32_t row_address(int row) const {
    return shared_address_of(memory) + row * columns ^ turn(row);
  }
  __device__ __forceinline__ std::uint32_t* warp_runs() const {
    return reinterpret_cast<std::uint32_t*>(scratch + marks_bytes) + thread() / warp_lanes * most_runs;
  }
  /// Counts partner i of `count` in the row at `address`, if its place is in the tile.
  static __device__ __forceinline__ void add(std::uint32_t address, std::uint32_t place, std::uint32_t i,
                                             std::uint32_t count) {
    add_to_word(address ^ (place & ~3u), __funnelshift_l(0, 1, place * 8), i, count, place, columns);
  }
  __device__ __forceinline__ void mark_crowded(const CountWord (&word)[together], int row, int first) const {
    std::uint32_t bits = 0;
#pragma unroll
    for (int u = 0; u < together; ++u) bits |= word[u].is_crowded() ? 1u << u : 0;
    if (bits != 0) atomicOr(marks(row) + first / 32, bits << first % 32);
  }
  /// Collects the runs that the words of all lanes name: place and count of the word, hash, lane. Returns their
  /// number; zeros lie behind them.
  __device__ __forceinline__ int note_runs(const CountWord (&word)[together]) const {
    int own = 0;
#pragma unroll
    for (int u = 0; u < together; ++u) own += word[u].is_listed() ? 1 : 0;
    int last = own;  // inclusive sums
#pragma unroll
    for (int step = 1; step < warp_lanes; step *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, last, step);
      if (lane() >= step) last += other;
    }
    const int runs = __shfl_sync(0xFFFFFFFFu, last, warp_lanes - 1);
    __syncwarp();  // the runs before are worked off
    std::uint32_t* to = warp_runs() + last - own;
    const std::uint32_t lane_bits = static_cast<std::uint32_t>(lane()) << 23;
#pragma unroll
    for (std::uint32_t u = 0; u < together; ++u)
      if (word[u].is_listed()) *to++ = word[u].word | u << 20 | lane_bits;
    if (lane() < at_once * runs_together) warp_runs()[runs + lane()] = 0;
    __syncwarp();
    return runs;
  }
  /// Counts the collected runs, run_lanes lanes each; `list`: of the first hash in the order, `group`: the
  /// warp's first row.
  __device__ __forceinline__ void add_runs(const CountSource& source, std::int64_t list, int group, int runs,
                                           std::uint32_t first_column) const {
    const std::uint32_t member = lane() % run_lanes, tokens = static_cast<std::uint32_t>(source.tokens);
    const std::uint16_t* order = source.order + list + member;
    const std::uint32_t* from = warp_runs() + lane() / run_lanes;
    for (int base = 0; base < runs; base += at_once * runs_together, from += at_once * runs_together) {
      std::uint32_t run[runs_together], id[runs_together];
#pragma unroll
      for (int v = 0; v < runs_together; ++v) {
        run[v] = from[v * at_once];
        const std::uint32_t count = run[v] >> CountWord::count_shift & 15, hash = run[v] >> 20 & 7;
        id[v] = member < count ? order[hash * tokens + (run[v] & CountWord::first_bits)] : ~0u;
      }
#pragma unroll
      for (int v = 0; v < runs_together; ++v)
        add(row_address(group + static_cast<int>(run[v] >> 23)), count_place(id[v]) ^ first_column, 0, 1);
    }
  }
};

/// Counts of two neighbouring columns, bytes `selector` of a word, as bfloat16: byte c behind 0x43 is 128 + c.
template <std::uint32_t selector>
__device__ __forceinline__ std::uint32_t count_pair(std::uint32_t word) {
  constexpr std::uint32_t one = 0x3F803F80u, bias = 0xC300C300u;  // 1 and -128
  const std::uint32_t biased = __byte_perm(word, 0x43434343u, selector);
  std::uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(biased), "r"(one), "r"(bias));
  return pair;
}
/// Words u of rows g and g + 8 (CountTile::load) as operand A of 16 x 16.
__device__ __forceinline__ Fragment count_fragment(std::uint32_t top, std::uint32_t bottom) {
  constexpr std::uint32_t left = 0x4140u, right = 0x4342u;
  return {{count_pair<left>(top), count_pair<left>(bottom), count_pair<right>(top), count_pair<right>(bottom)}};
}
/// count_bias + byte i of a word.
constexpr float count_bias = 128;
__device__ __forceinline__ float biased_count(std::uint32_t word, int i) {
  return __uint_as_float(__byte_perm(word, 0x43u, 0x4055u | static_cast<std::uint32_t>(i) << 8));
}

}  // namespace tern::kernels
