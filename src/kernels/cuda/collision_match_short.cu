// Matches both sides of one hash in shared memory, a block for each (head, hash) and sequence: counts of both
// sides by code, their starts, then each side's rows in the order of their codes. Rows come to their buckets in
// any order and are ranked there by their place, so that the result does not depend on it. Deterministic. Cost
// linear in rows and codes, also in long buckets, whose rows are ranked through a bitmap of the sequence.
#include "kernels/cuda/collision_match_short.cuh"

namespace tern::kernels {
namespace {

using namespace matching;

constexpr int most_threads = 1024, most_rows = 16 * most_threads;
constexpr int most_bits = 14;  // a code, a flag and a number share a word

__device__ __forceinline__ void clear(std::uint32_t* words, int count) {
  uint4* to = reinterpret_cast<uint4*>(words);
  for (int i = static_cast<int>(threadIdx.x); i < count / 4; i += static_cast<int>(blockDim.x)) to[i] = uint4{};
  const int rest = count / 4 * 4 + static_cast<int>(threadIdx.x);
  if (rest < count) words[rest] = 0;
}

/// Exclusive sums of table[0 .. codes) in place, the total behind them. Halves never overflow.
__device__ __forceinline__ void scan_table(const Memory& memory, int codes) {
  const int warps = static_cast<int>(blockDim.x) / warp_lanes;
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const int steps = (codes + scan_words - 1) / scan_words;
  const int first = steps * warp / warps, last = steps * (warp + 1) / warps;
  uint4* words = reinterpret_cast<uint4*>(memory.table);
  std::uint32_t base = 0;
  for (int step = first; step < last; ++step) {
    uint4 x = words[step * warp_lanes + lane];
    const std::uint32_t own = x.x + x.y + x.z + x.w;
    std::uint32_t sum = own;
#pragma unroll
    for (int delta = 1; delta < warp_lanes; delta *= 2) {
      const std::uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, delta);
      if (lane >= delta) sum += other;
    }
    const std::uint32_t before = base + sum - own;
    base += __shfl_sync(0xFFFFFFFFu, sum, warp_lanes - 1);
    words[step * warp_lanes + lane] = {before, before + x.x, before + x.x + x.y, before + x.x + x.y + x.z};
  }
  if (lane == 0) memory.warp_totals[warp] = base;
  __syncthreads();
  const std::uint32_t total = lane < warps ? memory.warp_totals[lane] : 0;
  const std::uint32_t offset = warp_sum(lane < warp ? total : 0), all = warp_sum(total);
  for (int step = first; step < last; ++step) {
    const uint4 x = words[step * warp_lanes + lane];
    words[step * warp_lanes + lane] = {x.x + offset, x.y + offset, x.z + offset, x.w + offset};
  }
  // the word behind the codes holds the total already, where a step has scanned it
  if (threadIdx.x == 0 && codes % scan_words == 0) memory.table[codes] = all;
  __syncthreads();
}

__device__ __forceinline__ int row_of_thread(int u) {
  return u * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
}

/// A thread's rows of one side: row u of them is thread + u * threads of the sequence.
template <int rows, bool is_key>
struct ThreadRows {
  std::uint32_t word[rows];  ///< the code in the upper half, the rank in the bucket in the lower one
  Run run[rows];             ///< of the bucket
  __device__ __forceinline__ std::uint32_t code(int u) const { return word[u] >> 16; }
  __device__ __forceinline__ std::uint32_t rank(int u) const { return word[u] & 0xFFFFu; }

  __device__ __forceinline__ void load(const std::uint16_t* codes, int length) {
#pragma unroll
    for (int u = 0; u < rows; ++u) {
      const int row = row_of_thread(u);
      word[u] = row < length ? std::uint32_t{codes[row]} << 16 : 0;
    }
  }

  /// Puts the rows into their buckets as they come and notes large buckets.
  __device__ __forceinline__ void place_by_arrival(const Memory& memory, int length) {
#pragma unroll
    for (int u = 0; u < rows; ++u) {
      const int row = row_of_thread(u);
      if (row >= length) break;
      const CodeRanges ranges = memory.ranges(code(u));
      run[u] = ranges.of(is_key);
      memory.order(is_key)[run[u].first() + rank(u)] = static_cast<Id>(row);
      if (run[u].count() > few_rows && rank(u) == 0) {
        const bool is_met = ranges.of(!is_key).count() > 0;
        const int counter = is_key ? Memory::listed_of_queries : Memory::listed_of_keys;
        memory.add_large({code(u), is_key,
                          is_met ? atomicAdd(&memory.counters[counter], 1u) : LargeBucket::unlisted},
                         run[u].count());
      }
    }
  }

  /// Ranks by place in the sequence in place of ranks by arrival, in small buckets.
  __device__ __forceinline__ void rank_small(const Memory& memory, int length) {
    const Id* order = memory.order(is_key);
#pragma unroll
    for (int u = 0; u < rows; ++u) {
      const int row = row_of_thread(u);
      if (row >= length) break;
      const std::uint32_t count = run[u].count();
      if (count == 1 || count > few_rows) continue;
      const Id* bucket = order + run[u].first();
      std::uint32_t smaller = bucket[0] < row ? 1 : 0;
      smaller += bucket[1] < row ? 1 : 0;
      for (std::uint32_t i = 2; i < count; i += 2) {
        smaller += bucket[i] < row ? 1 : 0;
        if (i + 1 < count) smaller += bucket[i + 1] < row ? 1 : 0;
      }
      word[u] = code(u) << 16 | smaller;
    }
  }
  __device__ __forceinline__ void place_small(const Memory& memory, int length) const {
#pragma unroll
    for (int u = 0; u < rows; ++u) {
      const int row = row_of_thread(u);
      if (row >= length) break;
      if (run[u].count() > 1 && run[u].count() <= few_rows)
        memory.order(is_key)[run[u].first() + rank(u)] = static_cast<Id>(row);
    }
  }

  __device__ __forceinline__ void write_records(const Memory& memory, int length,
                                                std::uint32_t* records) const {
    const Id* partners = memory.order(!is_key);
#pragma unroll
    for (int u = 0; u < rows; ++u) {
      const int row = row_of_thread(u);
      if (row >= length) break;
      const Run partner = memory.ranges(code(u)).of(!is_key);
      records[row] =
          MatchRecord::of(partner.count(), partner.count() == 1 ? partners[partner.first()] : partner.first());
    }
  }
};

__device__ __forceinline__ void write_order(const Id* order, int length, Id* to) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  if (reinterpret_cast<std::uintptr_t>(to) % 4 == 0) {
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(order);
    for (int i = thread; i < length / 2; i += threads) reinterpret_cast<std::uint32_t*>(to)[i] = pairs[i];
    if (length % 2 != 0 && thread == 0) to[length - 1] = order[length - 1];
    return;
  }
  for (int i = thread; i < length; i += threads) to[i] = order[i];
}

template <int rows, bool both, int block_threads, int blocks>
__global__ void __launch_bounds__(block_threads, blocks) match_rows(Work work, int sets) {
  extern __shared__ __align__(16) std::uint32_t shared[];
  const auto list = static_cast<int>(blockIdx.x / work.sequences.count);
  const SequenceRange range =
      sequence_range(work.sequences, static_cast<int>(blockIdx.x % work.sequences.count));
  const int length = range.length, codes = 1 << work.bits;
  if (length == 0) return;
  const std::int64_t place = list * work.sequences.tokens + range.begin;
  const Memory memory(shared, codes, length, both);
  clear(shared, codes + Memory::fixed_words);
  ThreadRows<rows, false> q;
  ThreadRows<rows, true> k;
  q.load(work.q.codes + place, length);
  k.load(work.k.codes + place, length);
  __syncthreads();
#pragma unroll
  for (int u = 0; u < rows; ++u) {
    if (row_of_thread(u) >= length) break;
    const std::uint32_t before = atomicAdd(&memory.table[q.code(u)], one_query);
    if (both) q.word[u] |= before & 0xFFFFu;
    k.word[u] |= atomicAdd(&memory.table[k.code(u)], one_key) >> 16;
  }
  __syncthreads();
  scan_table(memory, codes);
  k.place_by_arrival(memory, length);
  if (both) q.place_by_arrival(memory, length);
  __syncthreads();
  if (threadIdx.x == 0) {
    const int segment = work.q.crowded.segments > 1 ? list % work.hashes : 0;
    std::uint32_t* counters = memory.counters;
    take_room(work.q.crowded, segment, counters[Memory::listed_of_queries], counters[Memory::base_of_queries]);
    take_room(work.k.crowded, segment, counters[Memory::listed_of_keys], counters[Memory::base_of_keys]);
  }
  k.rank_small(memory, length);
  if (both) q.rank_small(memory, length);
  rank_large(memory, length, sets);
  __syncthreads();
  k.place_small(memory, length);
  if (both) q.place_small(memory, length);
  list_crowded(work, memory, list, range.index);
  __syncthreads();
  write_order(memory.k_order, length, work.k.order + place);
  if (both) write_order(memory.q_order, length, work.q.order + place);
  q.write_records(memory, length, work.q.records + place);
  if (both) k.write_records(memory, length, work.k.records + place);
}

/// Bitmaps of the sequence that a block has room for: one a warp where memory allows.
int sets_of_block(const Cuda& cuda, int codes, int longest, bool both, int threads) {
  const int left = cuda.shared_memory - Memory::bytes(codes, longest, both, 0);
  return std::min(threads / warp_lanes, left / (4 * Memory::set_words(longest)));
}

template <int rows, bool both, int block_threads, int blocks>
void launch(Cuda& cuda, const Work& work) {
  const auto longest = static_cast<int>(work.sequences.longest), codes = 1 << work.bits;
  const int threads = std::clamp(((longest + rows - 1) / rows + 31) / 32 * 32, 64, most_threads);
  const int sets = sets_of_block(cuda, codes, longest, both, threads),
            bytes = Memory::bytes(codes, longest, both, sets);
  check_cuda(cudaFuncSetAttribute(match_rows<rows, both, block_threads, blocks>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "collisions: shared memory");
  match_rows<rows, both, block_threads, blocks>
      <<<static_cast<unsigned>(work.lists * work.sequences.count), threads, static_cast<std::size_t>(bytes),
         cuda.stream>>>(work, sets);
  check_launch("collisions: match_rows");
}

template <int rows, int block_threads, int blocks>
void launch_directions(Cuda& cuda, const Work& work) {
  if (work.k.records != nullptr)
    launch<rows, true, block_threads, blocks>(cuda, work);
  else
    launch<rows, false, block_threads, blocks>(cuda, work);
}

}  // namespace

bool fits_short_rows(const Cuda& cuda, const Sequences& sequences, int bits, bool both) {
  return sequences.longest <= most_rows && bits <= most_bits &&
         Memory::bytes(1 << bits, static_cast<int>(sequences.longest), both, 1) <= cuda.shared_memory;
}

void match_short_rows(Cuda& cuda, const Work& work) {
  if (work.sequences.longest <= 1024)
    launch_directions<4, 256, 6>(cuda, work);
  else if (work.sequences.longest <= 4096)
    launch_directions<8, 512, 2>(cuda, work);
  else if (work.sequences.longest <= 8192)
    launch_directions<8, 1024, 1>(cuda, work);
  else
    launch_directions<16, 1024, 1>(cuda, work);
}

}  // namespace tern::kernels
