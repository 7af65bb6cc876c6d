// Matches both sides of one hash in shared memory, a block for each (head, hash) and sequence: counts of both
// sides by code, their starts, then each side's rows in the order of their codes. Rows come to their buckets in
// any order and are sorted there by their place, so that the result does not depend on it: buckets of up to
// few_rows by a network in a lane, larger ones by a warp, through all pairs or a bitmap of the sequence.
// Deterministic. Cost linear in rows and codes.
#include "kernels/cuda/collision_match_short.cuh"

namespace tern::kernels {
namespace {

using namespace matching;

constexpr int most_rows = 16 * 1024;
constexpr int most_bits = 14;  // four times a code fits half a word
static_assert(most_rows <= 1 << MatchRecord::place_bits);

template <int warps>
__device__ __forceinline__ void clear(const Memory<warps>& memory, int codes) {
  uint4* to = reinterpret_cast<uint4*>(memory.counters);
  for (int i = static_cast<int>(threadIdx.x); i < memory.cleared_words(codes) / 4; i += memory.threads)
    to[i] = uint4{};
}

/// Exclusive sums of table[0 .. codes) in place; behind them the total. Halves never overflow.
template <int warps>
__device__ __forceinline__ void scan_table(const Memory<warps>& memory, int codes) {
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const WarpSteps<warps> steps(codes);
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
template <int rows, bool is_key, int warps>
struct ThreadRows {
  using Shared = Memory<warps>;
  static constexpr int group = 4;
  static_assert(most_bits + 2 <= 16);
  std::uint32_t offset[rows / 2];  ///< of the rows' codes in the table, in bytes, two a word

  static __device__ __forceinline__ int first_row(int g) {
    return group * (g * Shared::threads + static_cast<int>(threadIdx.x));
  }
  __device__ __forceinline__ std::uint32_t* table_word(const Shared& memory, int u) const {
    const std::uint32_t bytes = u % 2 == 0 ? offset[u / 2] & 0xFFFFu : offset[u / 2] >> 16;
    return reinterpret_cast<std::uint32_t*>(reinterpret_cast<std::byte*>(memory.table) + bytes);
  }

  /// Whether the warp's rows of a group are all inside the sequence.
  static __device__ __forceinline__ bool is_whole(int g, int length) {
    return group * (g * Shared::threads + static_cast<int>(threadIdx.x | (warp_lanes - 1)) + 1) <= length;
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
  __device__ __forceinline__ void count(const Shared& memory, int length) const {
    visit_groups(length, [&](int g, int, auto inside) {
#pragma unroll
      for (int v = 0; v < group; ++v)
        if (v < inside) atomicAdd(table_word(memory, group * g + v), is_key ? one_key : one_query);
    });
  }
  /// Puts the rows into their buckets as they come.
  __device__ __forceinline__ void place(const Shared& memory, int length) const {
    Id* order = memory.order(is_key);
    visit_groups(length, [&](int g, int row, auto inside) {
      std::uint32_t start[group] = {};
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
  __device__ __forceinline__ void write_records(const Shared& memory, int length,
                                                std::uint32_t* records) const {
    const Id* partners = memory.order(!is_key);
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(records) % 16 == 0;
    visit_groups(length, [&](int g, int row, auto inside) {
      std::uint32_t start[group] = {}, count[group] = {}, most = 0;
#pragma unroll
      for (int v = 0; v < group; ++v) {
        if (v >= inside) break;
        // halves, as the others may be counters by now
        const auto* halves = reinterpret_cast<const std::uint16_t*>(table_word(memory, group * g + v));
        start[v] = halves[is_key ? -2 : -1];
        count[v] = halves[is_key ? 0 : 1] - start[v];
        most = max(most, count[v]);
      }
      Pack<std::uint32_t, group> pack{};
#pragma unroll
      for (int v = 0; v < group; ++v) {
        if (v >= inside) break;
        // loaded from any bucket: behind the last one there is other memory
        const std::uint32_t first = partners[start[v]], second = partners[start[v] + 1];
        const std::uint32_t other = MatchRecord::of(count[v], count[v] == 1 ? first : start[v]);
        pack.item[v] = count[v] == 2 ? MatchRecord::of_pair(first, second) : other;
      }
      if (counts_own && most > few_rows) {
#pragma unroll
        for (int v = 0; v < group; ++v) {
          if (v >= inside) break;
          if (count[v] > few_rows) atomicAdd(table_word(memory, group * g + v), is_key ? one_key : one_query);
        }
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

/// Whether `to` is aligned for Words.
template <class Word, int threads>
__device__ __forceinline__ bool copy_order(const Id* order, int length, Id* to) {
  if (reinterpret_cast<std::uintptr_t>(to) % sizeof(Word) != 0) return false;
  constexpr int ids = sizeof(Word) / sizeof(Id);
  const int whole = length / ids, rest = whole * ids + static_cast<int>(threadIdx.x);
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < whole; i += threads)
    reinterpret_cast<Word*>(to)[i] = reinterpret_cast<const Word*>(order)[i];
  if (rest < length) to[rest] = order[rest];
  return true;
}
template <int threads>
__device__ __forceinline__ void write_order(const Id* order, int length, Id* to) {
  if (copy_order<uint4, threads>(order, length, to)) return;
  if (copy_order<std::uint32_t, threads>(order, length, to)) return;
  copy_order<Id, threads>(order, length, to);
}

template <int rows, bool both, int threads, int blocks>
__global__ void __launch_bounds__(threads, blocks) match_rows(Work work, int sets) {
  extern __shared__ __align__(16) std::uint32_t shared[];
  constexpr int warps = threads / warp_lanes;
  constexpr bool loads_again = threads * blocks > 1024;  // there are few registers
  const auto sequences = static_cast<std::uint32_t>(work.sequences.count);
  const auto list = static_cast<int>(blockIdx.x / sequences);
  const SequenceRange range = sequence_range(work.sequences, static_cast<int>(blockIdx.x % sequences));
  const int length = range.length, codes = 1 << work.bits;
  if (length == 0) return;
  const std::int64_t place = list * work.sequences.tokens + range.begin;
  const Memory<warps> memory(shared, codes, length, both);
  ThreadRows<rows, false, warps> q;
  ThreadRows<rows, true, warps> k;
  k.load(work.k.codes + place, length);
  if (both || !loads_again) q.load(work.q.codes + place, length);
  clear(memory, codes);
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
  if (loads_again) q.load(work.q.codes + place, length);
  write_order<threads>(memory.k_order, length, work.k.order + place);
  if (both) write_order<threads>(memory.q_order, length, work.q.order + place);
  q.template write_records<!both>(memory, length, work.q.records + place);
  if (both && loads_again) k.load(work.k.codes + place, length);
  if (both) k.template write_records<false>(memory, length, work.k.records + place);
  if (!has_large) return;
  __syncthreads();
  list_crowded<both>(work, memory, list, range.index);
}

template <int rows, bool both, int threads, int blocks>
void launch(Cuda& cuda, const Work& work) {
  using Shared = Memory<threads / warp_lanes>;
  const auto longest = static_cast<int>(work.sequences.longest), codes = 1 << work.bits;
  // bitmaps of the sequence: one a warp, or as many as leave room for the blocks that share a multiprocessor,
  // which has 1 KiB more than a block may take and needs as much for each block
  constexpr int warps = threads / warp_lanes, extra = 1024;
  const int room = cuda.shared_memory + extra, set_bytes = 4 * Shared::set_words(longest),
            least = Shared::bytes(codes, longest, both, 1) + extra,
            left = room / std::clamp(room / least, 1, blocks) - least,
            sets = std::clamp(1 + left / set_bytes, 1, warps),
            bytes = Shared::bytes(codes, longest, both, sets);
  check_cuda(cudaFuncSetAttribute(match_rows<rows, both, threads, blocks>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "collisions: shared memory");
  match_rows<rows, both, threads, blocks><<<static_cast<unsigned>(work.lists * work.sequences.count), threads,
                                            static_cast<std::size_t>(bytes), cuda.stream>>>(work, sets);
  check_launch("collisions: match_rows");
}

template <int rows, int threads, int blocks>
void launch_directions(Cuda& cuda, const Work& work) {
  if (work.k.records != nullptr)
    launch<rows, true, threads, blocks>(cuda, work);
  else
    launch<rows, false, threads, blocks>(cuda, work);
}

}  // namespace

bool fits_short_rows(const Cuda& cuda, const Sequences& sequences, int bits, bool both) {
  constexpr int most_warps = 32;
  return sequences.longest <= most_rows && bits <= most_bits &&
         Memory<most_warps>::bytes(1 << bits, static_cast<int>(sequences.longest), both, 1) <=
             cuda.shared_memory;
}

void match_short_rows(Cuda& cuda, const Work& work) {
  if (work.sequences.longest <= 256)
    launch_directions<4, 64, 32>(cuda, work);
  else if (work.sequences.longest <= 1024)
    launch_directions<4, 256, 8>(cuda, work);
  else if (work.sequences.longest <= 4096)
    launch_directions<8, 512, 4>(cuda, work);
  else if (work.sequences.longest <= 8192)
    launch_directions<8, 1024, 2>(cuda, work);
  else
    launch_directions<16, 1024, 1>(cuda, work);
}

}  // namespace tern::kernels
