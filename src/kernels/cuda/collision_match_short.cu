// Matches both sides of one hash in shared memory, a block for each (head, hash) and sequence: counts of both
// sides by code, their starts, then each side's rows in the order of their codes. Rows come to their buckets in
// any order and are sorted there by their place, so that the result does not depend on it: buckets of up to
// few_rows by a network in a lane, larger ones by a warp, through all pairs or a bitmap of the sequence.
// Deterministic. Cost linear in rows and codes.
#include "kernels/cuda/collision_match_short.cuh"

namespace tern::kernels {
namespace {

using namespace matching;

constexpr int most_threads = 1024, most_rows = 16 * most_threads;
constexpr int most_bits = 14;  // four times a code fits half a word
static_assert(most_rows <= 1 << MatchRecord::place_bits);

__device__ __forceinline__ void clear(std::uint32_t* words, int count) {
  uint4* to = reinterpret_cast<uint4*>(words);
  for (int i = static_cast<int>(threadIdx.x); i < count / 4; i += static_cast<int>(blockDim.x)) to[i] = uint4{};
  const int rest = count / 4 * 4 + static_cast<int>(threadIdx.x);
  if (rest < count) words[rest] = 0;
}

/// Exclusive sums of table[0 .. codes) in place; behind them the total. Halves never overflow.
__device__ __forceinline__ void scan_table(const Memory& memory, int codes) {
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const WarpSteps steps(codes);
  uint4* words = reinterpret_cast<uint4*>(memory.table) + lane;
  std::uint32_t base = 0;
#pragma unroll 2
  for (int step = steps.first; step < steps.last; ++step) {
    const uint4 x = words[step * warp_lanes];
    const std::uint32_t own = x.x + x.y + x.z + x.w;
    std::uint32_t sum = own;
#pragma unroll
    for (int delta = 1; delta < warp_lanes; delta *= 2) {
      const std::uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, delta);
      if (lane >= delta) sum += other;
    }
    const std::uint32_t before = base + sum - own;
    base += __shfl_sync(0xFFFFFFFFu, sum, warp_lanes - 1);
    words[step * warp_lanes] = {before, before + x.x, before + x.x + x.y, before + x.x + x.y + x.z};
  }
  if (lane == 0) memory.warp_totals[warp] = base;
  __syncthreads();
  const std::uint32_t offset = warp_sum(lane < warp ? memory.warp_totals[lane] : 0);
#pragma unroll 2
  for (int step = steps.first; step < steps.last; ++step) {
    const uint4 x = words[step * warp_lanes];
    words[step * warp_lanes] = {x.x + offset, x.y + offset, x.z + offset, x.w + offset};
  }
  __syncthreads();
}

/// A thread's rows of one side: groups of neighbouring rows, a block's threads side by side.
template <int rows, bool is_key>
struct ThreadRows {
  static constexpr int group = 4;
  static_assert(most_bits + 2 <= 16);
  std::uint32_t offset[rows / 2];  ///< of the rows' codes in the table, in bytes, two a word

  static __device__ __forceinline__ int first_row(int g) {
    return group * (g * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
  }
  __device__ __forceinline__ std::uint32_t* table_word(const Memory& memory, int u) const {
    const std::uint32_t bytes = u % 2 == 0 ? offset[u / 2] & 0xFFFFu : offset[u / 2] >> 16;
    return reinterpret_cast<std::uint32_t*>(reinterpret_cast<std::byte*>(memory.table) + bytes);
  }

  /// Whether the warp's rows of a group are all inside the sequence.
  static __device__ __forceinline__ bool is_whole(int g, int length) {
    return group * (g * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x | (warp_lanes - 1)) + 1) <=
           length;
  }
  /// Calls visit(g, row, inside) for the groups: the first row and how many are inside, a constant in whole
  /// ones.
  template <class Visit>
  __device__ __forceinline__ void visit_groups(int length, const Visit& visit) const {
#pragma unroll
    for (int g = 0; g < rows / group; ++g) {
      const int row = first_row(g);
      if (is_whole(g, length))
        visit(g, row, std::integral_constant<int, group>{});
      else if (row < length)
        visit(g, row, min(group, length - row));
    }
  }

  __device__ __forceinline__ void load(const std::uint16_t* codes, int length) {
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(codes) % 8 == 0;
#pragma unroll
    for (int g = 0; g < rows / group; ++g) {
      const int row = first_row(g);
      Pack<std::uint32_t, 2> pair{};
      if (is_aligned && is_whole(g, length)) {
        pair = load_pack<2>(reinterpret_cast<const std::uint32_t*>(codes + row));
      } else {
#pragma unroll
        for (int v = 0; v < group; ++v)
          if (row + v < length) pair.item[v / 2] |= std::uint32_t{codes[row + v]} << v % 2 * 16;
      }
      offset[2 * g] = pair.item[0] << 2;
      offset[2 * g + 1] = pair.item[1] << 2;
    }
  }
  __device__ __forceinline__ void count(const Memory& memory, int length) const {
    visit_groups(length, [&](int g, int, auto inside) {
#pragma unroll
      for (int v = 0; v < group; ++v)
        if (v < inside) atomicAdd(table_word(memory, group * g + v), is_key ? one_key : one_query);
    });
  }
  /// Puts the rows into their buckets as they come.
  __device__ __forceinline__ void place(const Memory& memory, int length) const {
    Id* order = memory.order(is_key);
    visit_groups(length, [&](int g, int row, auto inside) {
      std::uint32_t start[group];
#pragma unroll
      for (int v = 0; v < group; ++v)
        if (v < inside) start[v] = atomicAdd(table_word(memory, group * g + v), is_key ? one_key : one_query);
#pragma unroll
      for (int v = 0; v < group; ++v)
        if (v < inside) order[is_key ? start[v] >> 16 : start[v] & 0xFFFFu] = static_cast<Id>(row + v);
    });
  }
  /// `counts_own`: rows that meet a large bucket are counted in their halves of the table.
  template <bool counts_own>
  __device__ __forceinline__ void write_records(const Memory& memory, int length,
                                                std::uint32_t* records) const {
    const Id* partners = memory.order(!is_key);
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(records) % 16 == 0;
    visit_groups(length, [&](int g, int row, auto inside) {
      Pack<std::uint32_t, group> pack;
#pragma unroll
      for (int v = 0; v < group; ++v) {
        if (v >= inside) break;
        std::uint32_t* word = table_word(memory, group * g + v);
        const CodeRanges ranges{word[-1], word[0]};
        const std::uint32_t first = ranges.start_of(!is_key), count = ranges.end_of(!is_key) - first;
        if (count == 2)
          pack.item[v] = MatchRecord::of_pair(partners[first], partners[first + 1]);
        else
          pack.item[v] = MatchRecord::of(count, count == 1 ? partners[first] : first);
        if (counts_own && count > few_rows) atomicAdd(word, is_key ? one_key : one_query);
      }
      if (is_aligned && inside == group) {
        store_pack(records + row, pack);
        return;
      }
#pragma unroll
      for (int v = 0; v < group; ++v)
        if (v < inside) records[row + v] = pack.item[v];
    });
  }
};

__device__ __forceinline__ void write_order(const Id* order, int length, Id* to) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  if (reinterpret_cast<std::uintptr_t>(to) % 4 == 0) {
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(order);
#pragma unroll 4
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
  ThreadRows<rows, false> q;
  ThreadRows<rows, true> k;
  k.load(work.k.codes + place, length);
  q.load(work.q.codes + place, length);
  clear(shared, Memory::cleared_words(codes));
  __syncthreads();
  k.count(memory, length);
  if (both) q.count(memory, length);
  __syncthreads();
  scan_table(memory, codes);
  k.place(memory, length);
  if (both) q.place(memory, length);
  __syncthreads();
  sort_buckets<both>(memory, codes);
  __syncthreads();
  const bool has_large = memory.large() > 0;
  if (has_large) {
    rank_large(memory, length, sets);
    __syncthreads();
  }
  write_order(memory.k_order, length, work.k.order + place);
  if (both) write_order(memory.q_order, length, work.q.order + place);
  q.template write_records<!both>(memory, length, work.q.records + place);
  if (both) k.template write_records<false>(memory, length, work.k.records + place);
  if (!has_large) return;
  __syncthreads();
  list_crowded<both>(work, memory, list, range.index);
}

/// Bitmaps of the sequence that a block has room for: one a warp where memory allows.
int sets_of_block(const Cuda& cuda, int codes, int longest, bool both, int warps) {
  const int left = cuda.shared_memory - Memory::bytes(codes, longest, both, warps, 0);
  return std::min(warps, left / (4 * Memory::set_words(longest)));
}

template <int rows, bool both, int block_threads, int blocks>
void launch(Cuda& cuda, const Work& work) {
  const auto longest = static_cast<int>(work.sequences.longest), codes = 1 << work.bits;
  const int threads = std::clamp(((longest + rows - 1) / rows + 31) / 32 * 32, 64, most_threads);
  const int warps = threads / warp_lanes, sets = sets_of_block(cuda, codes, longest, both, warps),
            bytes = Memory::bytes(codes, longest, both, warps, sets);
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
         Memory::bytes(1 << bits, static_cast<int>(sequences.longest), both, most_threads / warp_lanes, 1) <=
             cuda.shared_memory;
}

void match_short_rows(Cuda& cuda, const Work& work) {
  if (work.sequences.longest <= 1024)
    launch_directions<4, 256, 8>(cuda, work);
  else if (work.sequences.longest <= 4096)
    launch_directions<8, 512, 4>(cuda, work);
  else if (work.sequences.longest <= 8192)
    launch_directions<8, 1024, 1>(cuda, work);
  else
    launch_directions<16, 1024, 1>(cuda, work);
}

}  // namespace tern::kernels
