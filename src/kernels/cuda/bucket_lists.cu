// Sorts the rows of each (head, hash) and sequence by code: a block for each, stable counting sorts of a few
// bits a pass (Knuth, The Art of Computer Programming 3, 5.2.5), so that a bucket's rows keep their order.
// Equal on every run. Cost rows * passes; short sequences stay in shared memory, long ones go through global
// memory.
#include "kernels/cuda/bucket_lists.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

constexpr int staged_rows = 4096;  // longest sequence that is sorted in shared memory
constexpr int digit_bits = 8;      // of one pass, at most
constexpr int most_threads = 1024, rows_of_thread = 8;

struct SortPlan {
  int passes, digit, staged;  ///< passes of `digit` bits; rows that fit into shared memory, or 0
  std::uint32_t* spare;       ///< [lists][tokens] for longer sequences, used by several passes
};

/// Exclusive sums of counters[0 .. size) over the block, in place.
__device__ void scan_counters(std::uint32_t* counters, int size, std::uint32_t* warp_totals) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_lanes, warp = thread / warp_lanes;
  const int share = (size + threads - 1) / threads, first = min(size, thread * share),
            last = min(size, first + share);
  std::uint32_t own = 0;
  for (int i = first; i < last; ++i) own += counters[i];
  std::uint32_t sum = own;
  for (int step = 1; step < warp_lanes; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == warp_lanes - 1) warp_totals[warp] = sum;
  __syncthreads();
  std::uint32_t base = sum - own;
  for (int w = 0; w < warp; ++w) base += warp_totals[w];
  for (int i = first; i < last; ++i) {
    const std::uint32_t value = counters[i];
    counters[i] = base;
    base += value;
  }
  __syncthreads();
}

/// One pass: rows `from` (null: 0, 1, ...) to `to`, by the digit at `shift`. Each warp owns a run of rows.
template <class AnyCode>
__device__ void sort_pass(const AnyCode* codes, int length, const std::uint32_t* from, std::uint32_t* to,
                          int shift, int digit, std::uint32_t* counters, std::uint32_t* warp_totals) {
  const int warps = static_cast<int>(blockDim.x) / warp_lanes;
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const int run = (length + warps * warp_lanes - 1) / (warps * warp_lanes) * warp_lanes;
  const int first = min(length, warp * run), last = min(length, first + run);
  const int stride = warps + 1;  // odd, against bank conflicts between digits
  const std::uint32_t mask = (1u << digit) - 1;
  for (int i = static_cast<int>(threadIdx.x); i < stride << digit; i += static_cast<int>(blockDim.x))
    counters[i] = 0;
  __syncthreads();
  for (int i = first + lane; i < last; i += warp_lanes) {
    const std::uint32_t row = from == nullptr ? i : from[i];
    atomicAdd(&counters[((std::uint32_t{codes[row]} >> shift) & mask) * stride + warp], 1u);
  }
  __syncthreads();
  scan_counters(counters, stride << digit, warp_totals);
  for (int base = first; base < last; base += warp_lanes) {
    const int i = base + lane;
    const bool active = i < last;
    const std::uint32_t row = !active ? 0 : (from == nullptr ? i : from[i]);
    const std::uint32_t value = active ? (std::uint32_t{codes[row]} >> shift) & mask : ~0u;
    const std::uint32_t same = __match_any_sync(0xFFFFFFFFu, value);
    const std::uint32_t together = __ballot_sync(0xFFFFFFFFu, active);
    if (!active) continue;
    std::uint32_t* counter = &counters[value * stride + warp];
    const std::uint32_t before = *counter;
    __syncwarp(together);
    to[before + __popc(same & ((1u << lane) - 1))] = row;
    if (lane == __ffs(same) - 1) *counter = before + __popc(same);
    __syncwarp(together);
  }
  __syncthreads();
}

/// table[x] = place of the first row whose code >> shift is at least x. A warp takes 32 neighbours and writes
/// the entries up to the last one's.
template <class AnyCode>
__device__ void fill_table(const AnyCode* codes, const std::uint32_t* order, int length, int shift, int entries,
                           std::uint32_t* table) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const auto coarse = [&](int place) { return static_cast<int>(std::uint32_t{codes[order[place]]} >> shift); };
  for (int base = static_cast<int>(threadIdx.x) - lane; base < length; base += static_cast<int>(blockDim.x)) {
    const int own = coarse(min(length - 1, base + lane));
    const int first = base == 0 ? 0 : coarse(base - 1) + 1;
    const int last = __shfl_sync(0xFFFFFFFFu, own, warp_lanes - 1);
    for (int begin = first; begin <= last; begin += warp_lanes) {
      const int x = begin + lane;
      int place = 0;
#pragma unroll
      for (int step = warp_lanes / 2; step > 0; step /= 2) {
        if (__shfl_sync(0xFFFFFFFFu, own, place + step - 1) < x) place += step;
      }
      if (x <= last) table[x] = static_cast<std::uint32_t>(base + place);
    }
  }
  const int rest = coarse(length - 1) + 1;
  for (int x = rest + static_cast<int>(threadIdx.x); x < entries; x += static_cast<int>(blockDim.x))
    table[x] = static_cast<std::uint32_t>(length);
}

template <bool is_staged, class Code>
__global__ void __launch_bounds__(most_threads, is_staged ? 2 : 1)
    sort_rows(Sequences sequences, BucketLists<Code> lists, SortPlan plan) {
  extern __shared__ std::uint32_t shared[];
  __shared__ std::uint32_t warp_totals[most_threads / warp_lanes];
  const int warps = static_cast<int>(blockDim.x) / warp_lanes;
  const std::int64_t list = blockIdx.x / sequences.count;
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x % sequences.count));
  const int length = range.length;
  if (length == 0) return;
  const std::int64_t place = list * lists.tokens + range.begin;
  const Code* codes = lists.codes + place;
  std::uint32_t* order = lists.order + place;
  std::uint32_t* counters = shared;
  std::uint32_t* staged = shared + ((warps + 1) << plan.digit);  // codes, then places twice
  // the last pass ends in `order`, or in shared memory
  std::uint32_t* to = is_staged ? staged + plan.staged : (plan.passes % 2 == 1 ? order : plan.spare + place);
  std::uint32_t* other =
      is_staged ? staged + 2 * plan.staged : (plan.passes % 2 == 1 ? plan.spare + place : order);
  if constexpr (is_staged) {
    for (int i = static_cast<int>(threadIdx.x); i < length; i += static_cast<int>(blockDim.x))
      staged[i] = codes[i];
    __syncthreads();
  }
  const std::uint32_t* from = nullptr;
  for (int pass = 0; pass < plan.passes; ++pass) {
    if constexpr (is_staged)
      sort_pass(staged, length, from, to, pass * plan.digit, plan.digit, counters, warp_totals);
    else
      sort_pass(codes, length, from, to, pass * plan.digit, plan.digit, counters, warp_totals);
    from = to;
    to = other;
    other = const_cast<std::uint32_t*>(from);
  }
  const int shift = table_shift(lists.bits, length), entries = (1 << (lists.bits - shift)) + 1;
  std::uint32_t* table = lists.table + list * lists.table_stride + table_place(lists, range);
  if constexpr (is_staged) {
    for (int i = static_cast<int>(threadIdx.x); i < length; i += static_cast<int>(blockDim.x))
      order[i] = from[i];
    fill_table(staged, from, length, shift, entries, table);
  } else {
    fill_table(codes, from, length, shift, entries, table);
  }
}

template <bool is_staged, class Code>
void launch_sort(Cuda& cuda, const Sequences& sequences, const BucketLists<Code>& lists, std::int64_t count,
                 int threads, const SortPlan& plan) {
  constexpr int most_bytes =
      4 * (((most_threads / warp_lanes + 1) << digit_bits) + (is_staged ? 3 * staged_rows : 0));
  const int bytes = 4 * (((threads / warp_lanes + 1) << plan.digit) + 3 * plan.staged);
  check_cuda(
      cudaFuncSetAttribute(sort_rows<is_staged, Code>, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes),
      "sort_into_buckets: shared memory");
  sort_rows<is_staged, Code><<<static_cast<unsigned>(sequences.count * count), threads,
                               static_cast<std::size_t>(bytes), cuda.stream>>>(sequences, lists, plan);
  check_launch("sort_into_buckets");
}

}  // namespace

template <class Code>
void sort_into_buckets(Cuda& cuda, const Sequences& sequences, const BucketLists<Code>& lists,
                       std::int64_t count) {
  if (sequences.count == 0 || sequences.longest == 0 || count == 0) return;
  const int passes = (lists.bits + digit_bits - 1) / digit_bits, digit = (lists.bits + passes - 1) / passes;
  const std::int64_t longest = sequences.longest;
  const auto wanted =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(longest))) / rows_of_thread;
  const auto threads = static_cast<int>(std::clamp<std::int64_t>(wanted, 128, most_threads));
  if (longest <= staged_rows) {
    const SortPlan plan{passes, digit, static_cast<int>(longest), nullptr};
    return launch_sort<true>(cuda, sequences, lists, count, threads, plan);
  }
  const Scratch<std::uint32_t> spare(cuda, passes > 1 ? count * lists.tokens : 0);
  launch_sort<false>(cuda, sequences, lists, count, threads, {passes, digit, 0, spare.data()});
}

template void sort_into_buckets<std::uint16_t>(Cuda&, const Sequences&, const BucketLists<std::uint16_t>&,
                                               std::int64_t);
template void sort_into_buckets<std::uint32_t>(Cuda&, const Sequences&, const BucketLists<std::uint32_t>&,
                                               std::int64_t);

}  // namespace tern::kernels
