// Links the records of all hashes of a row to one list of partners. Up to 32 threads share a row, eight hashes
// each; a block's lists are put together in shared memory and written in one run. The lists are equal on every
// run, only where a block's run lies is not. Cost tokens * hashes.
#include "kernels/cuda/collisions.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256, smallest_tile = threads / warp_lanes;
constexpr int together = 8;                // records of a thread that are in registers at a time
constexpr int staged = 6144;               // entries in shared memory at a time
constexpr int run_words = 4;               // runs are multiples of 16 bytes
constexpr std::uint32_t is_id = 1u << 31;  // entry: a partner's place, else a place in partner_order

struct Totals {
  std::uint32_t few, crowded;
};

/// Sums over the threads before this one, and over all.
__device__ __forceinline__ Totals scan_block(const Totals& own, Totals& all) {
  __shared__ std::uint64_t warp_totals[threads / warp_lanes];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::uint64_t both = std::uint64_t{own.crowded} << 32 | own.few;
  std::uint64_t sum = both;
#pragma unroll
  for (int step = 1; step < warp_lanes; step *= 2) {
    const std::uint64_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == warp_lanes - 1) warp_totals[warp] = sum;
  __syncthreads();
  std::uint64_t before = sum - both, total = 0;
#pragma unroll
  for (int w = 0; w < threads / warp_lanes; ++w) {
    if (w < warp) before += warp_totals[w];
    total += warp_totals[w];
  }
  all = {static_cast<std::uint32_t>(total), static_cast<std::uint32_t>(total >> 32)};
  return {static_cast<std::uint32_t>(before), static_cast<std::uint32_t>(before >> 32)};
}

/// A thread's records: hashes first .. last - 1 of one row, `together` of them at a time.
struct RowRecords {
  const std::uint32_t* records;  ///< of the row, hash 0
  std::int64_t tokens;
  int first, last, loaded = -1;
  std::uint32_t record[together];

  /// From hash `from` on, 0 behind the last.
  __device__ __forceinline__ void load(int from) {
    if (from == loaded) return;
    loaded = from;
#pragma unroll
    for (int u = 0; u < together; ++u) record[u] = from + u < last ? records[(from + u) * tokens] : 0;
  }
  __device__ __forceinline__ std::uint32_t count(int u) const { return record[u] >> MatchRecord::shift; }
  __device__ __forceinline__ std::uint32_t low(int u) const { return record[u] & MatchRecord::low_bits; }
  __device__ __forceinline__ bool is_crowded(int u) const { return count(u) == MatchRecord::crowded; }
};

/// Entries of a thread's records from `place` of the block's list on, as far as they lie in the chunk.
__device__ __forceinline__ void stage(RowRecords& own, std::uint32_t begin, std::uint32_t place,
                                      std::uint32_t* entries) {
  for (int from = own.first; from < own.last; from += together) {
    own.load(from);
#pragma unroll
    for (int u = 0; u < together; ++u) {
      const std::uint32_t count = own.is_crowded(u) ? 0 : own.count(u);
      std::uint32_t entry = count == 1
                                ? is_id | own.low(u)
                                : static_cast<std::uint32_t>((from + u) * own.tokens) + begin + own.low(u);
      for (const std::uint32_t end = place + count; place != end; ++place, ++entry)
        if (place < staged) entries[place] = entry;
    }
  }
}

template <class Id>
__device__ __forceinline__ void write_ids(const std::uint32_t* entries, std::uint32_t count, const Id* order,
                                          Id* ids) {
  const auto id_of = [&](std::uint32_t entry) {
    return (entry & is_id) != 0 ? static_cast<Id>(entry & ~is_id) : order[entry];
  };
#pragma unroll 4
  for (std::uint32_t i = 2 * threadIdx.x; i < count; i += 2 * threads) {
    const Pack<std::uint32_t, 2> pair = load_pack<2>(entries + i);
    if (i + 1 < count)
      store_pack(ids + i, Pack<Id, 2>{{id_of(pair.item[0]), id_of(pair.item[1])}});
    else
      ids[i] = id_of(pair.item[0]);
  }
}

template <class Id>
__global__ void __launch_bounds__(threads) link(LinkWork<Id> work, int row_threads) {
  __shared__ __align__(8) std::uint32_t entries[staged];
  __shared__ std::uint32_t shared_base;
  constexpr std::uint32_t ids_of_word = sizeof(std::uint32_t) / sizeof(Id);
  const std::int64_t tokens = work.sequences.tokens;
  const auto head = static_cast<int>(blockIdx.y);
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (threads / row_threads) +
                           static_cast<int>(threadIdx.x) / row_threads;
  const int part = static_cast<int>(threadIdx.x) % row_threads;
  const int share = (work.hashes + row_threads - 1) / row_threads;
  RowRecords own{work.records + static_cast<std::int64_t>(head) * work.hashes * tokens + row, tokens,
                 min(work.hashes, part * share), min(work.hashes, part * share + share)};
  std::uint32_t begin = 0;
  if (row < tokens) {
    const SequenceRange range = find_sequence(work.sequences, static_cast<int>(row));
    begin = static_cast<std::uint32_t>(range.begin);
    if (range.index == work.sequences.count) own.last = own.first;
  } else {
    own.last = own.first;
  }
  Totals count{};
  for (int from = own.first; from < own.last; from += together) {
    own.load(from);
#pragma unroll
    for (int u = 0; u < together; ++u) {
      count.few += own.is_crowded(u) ? 0 : own.count(u);
      count.crowded += own.is_crowded(u) ? 1 : 0;
    }
  }
  Totals all;
  const Totals before = scan_block(count, all);
  const std::uint32_t few_words = (all.few + ids_of_word - 1) / ids_of_word;
  if (threadIdx.x == 0) {
    const std::uint32_t words = (few_words + all.crowded + run_words - 1) / run_words * run_words;
    shared_base = words == 0 ? 0 : atomicAdd(work.used + head, words);
  }
  __syncthreads();
  const std::uint32_t base = shared_base;
  // a row's ranges, from its first thread's start and its last thread's end
  const std::uint32_t end_few = __shfl_down_sync(0xFFFFFFFFu, before.few + count.few, row_threads - 1);
  const std::uint32_t end_crowded =
      __shfl_down_sync(0xFFFFFFFFu, before.crowded + count.crowded, row_threads - 1);
  if (part == 0 && row < tokens) {
    work.few[head * tokens + row] = {base * ids_of_word + before.few, end_few - before.few};
    work.crowded[head * tokens + row] = {base + few_words + before.crowded, end_crowded - before.crowded};
  }
  std::uint32_t* words = work.entries + head * work.capacity + base;
  if (count.crowded > 0) {
    std::uint32_t* to = words + few_words + before.crowded;
    for (int from = own.first; from < own.last; from += together) {
      own.load(from);
#pragma unroll
      for (int u = 0; u < together; ++u)
        if (own.is_crowded(u))
          *to++ = static_cast<std::uint32_t>(summed_row(tokens, from + u, begin + own.low(u)));
    }
  }
  const Id* order = work.partner_order + static_cast<std::int64_t>(head) * work.hashes * tokens;
  for (std::uint32_t chunk = 0; chunk < all.few; chunk += staged) {
    if (before.few < chunk + staged && before.few + count.few > chunk)
      stage(own, begin, before.few - chunk, entries);  // a place before the chunk wraps round and is left out
    __syncthreads();
    write_ids(entries, min(all.few - chunk, std::uint32_t{staged}), order,
              reinterpret_cast<Id*>(words) + chunk);
    __syncthreads();
  }
}

}  // namespace

template <class Id>
std::int64_t link_capacity(std::int64_t tokens, int hashes) {
  const std::int64_t tiles = tokens / smallest_tile + 1;
  return tokens * hashes * few_rows * static_cast<std::int64_t>(sizeof(Id)) / 4 + tiles * 2 * run_words;
}

template <class Id>
void link_rows(Cuda& cuda, const LinkWork<Id>& work) {
  int row_threads = 1;
  while (row_threads < warp_lanes && row_threads * together < work.hashes) row_threads *= 2;
  const int rows = threads / row_threads;
  const std::int64_t tiles = (work.sequences.tokens + rows - 1) / rows;
  link<Id><<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(work.heads)), threads, 0, cuda.stream>>>(
      work, row_threads);
  check_launch("collisions: link");
}

template std::int64_t link_capacity<std::uint16_t>(std::int64_t, int);
template std::int64_t link_capacity<std::uint32_t>(std::int64_t, int);
template void link_rows<std::uint16_t>(Cuda&, const LinkWork<std::uint16_t>&);
template void link_rows<std::uint32_t>(Cuda&, const LinkWork<std::uint32_t>&);

}  // namespace tern::kernels
