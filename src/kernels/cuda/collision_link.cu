// Links the records of all hashes of a row to one list of partners. Up to 32 threads share a row, eight hashes
// each; a block's lists are put together in shared memory and written in one run. The lists are equal on every
// run, only where a block's run lies is not. Cost tokens * hashes.
#include "kernels/cuda/collisions.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256, smallest_tile = threads / warp_lanes;
constexpr int blocks_together = 8;         // of one multiprocessor: few waves
constexpr int together = 8;                // records of a thread that are in registers at a time
constexpr int staged = 5120;               // entries in shared memory at a time
constexpr int group = 8;                   // neighbouring entries of a thread; a bucket lies in two at most
constexpr int run_words = 4;               // ids and sums of a run are multiples of 16 bytes
constexpr std::uint32_t is_id = 1u << 31;  // entry: a partner's place, else a place in partner_order
constexpr std::uint32_t empty = ~0u;       // entry: one place behind that of the entry before
static_assert(group >= few_rows && staged % group == 0 && staged % (4 * threads) == 0);

/// Numbers of entries and of crowded buckets in one word. `once`: no thread has more than `together` records.
template <bool once>
struct Totals {
  using Word = std::conditional_t<once, std::uint32_t, std::uint64_t>;
  static constexpr int shift = 4 * sizeof(Word);
  static_assert(!once || threads * together * few_rows < std::uint64_t{1} << shift);
  Word word = 0;

  __device__ __forceinline__ std::uint32_t few() const {
    return static_cast<std::uint32_t>(word & ((Word{1} << shift) - 1));
  }
  __device__ __forceinline__ std::uint32_t crowded() const { return static_cast<std::uint32_t>(word >> shift); }
};

/// Sums over the threads before this one, and over all.
template <class Word>
__device__ __forceinline__ Word scan_block(Word own, Word& all) {
  constexpr int warps = threads / warp_lanes;
  __shared__ Word warp_totals[warps];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  Word sum = own;
#pragma unroll
  for (int step = 1; step < warp_lanes; step *= 2) {
    const Word other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == warp_lanes - 1) warp_totals[warp] = sum;
  __syncthreads();
  const Word total = warp_totals[lane % warps];
  all = warp_sum(total, warps);
  return sum - own + warp_sum(lane % warps < warp ? total : 0, warps);
}

/// A thread's records: hashes first .. last - 1 of one row, `together` of them at a time.
template <bool once>
struct RowRecords {
  const std::uint32_t* records;  ///< of the row, hash 0
  int tokens, first, last;
  std::uint32_t record[together];

  /// From hash `from` on, 0 behind the last.
  __device__ __forceinline__ void load(int from) {
    const std::uint32_t* at = records + static_cast<std::int64_t>(from) * tokens;
#pragma unroll
    for (int u = 0; u < together; ++u, at += tokens) record[u] = from + u < last ? *at : 0;
  }
  /// Calls visit(u, hash) for all records, in order.
  template <class Visit>
  __device__ __forceinline__ void visit(const Visit& visit) {
    for (int from = first; from < last; from += together) {
      if (!once) load(from);
#pragma unroll
      for (int u = 0; u < together; ++u) visit(u, from + u);
      if (once) break;
    }
  }
  __device__ __forceinline__ std::uint32_t kind(int u) const { return record[u] >> MatchRecord::shift; }
  __device__ __forceinline__ bool is_crowded(int u) const { return kind(u) == MatchRecord::crowded; }
  /// Partners to list.
  __device__ __forceinline__ std::uint32_t count(int u) const {
    return kind(u) <= few_rows ? kind(u) : kind(u) % 4;
  }
  __device__ __forceinline__ std::uint32_t low(int u) const { return record[u] & MatchRecord::low_bits; }
};

__device__ __forceinline__ void clear(std::uint32_t* entries) {
#pragma unroll
  for (int i = 0; i < staged / 4 / threads; ++i)
    store_pack(entries + 4 * (i * threads + threadIdx.x), Pack<std::uint32_t, 4>{{empty, empty, empty, empty}});
}

/// Numbers of the summed rows of a thread's records.
template <bool once>
__device__ __forceinline__ void write_sums(RowRecords<once>& own, std::uint32_t begin, std::uint32_t* to) {
  own.visit([&](int u, int hash) {
    if (own.is_crowded(u)) *to++ = static_cast<std::uint32_t>(summed_row(own.tokens, hash, begin + own.low(u)));
  });
}

/// From `place` of the chunk on, as far as they lie in it: of a thread's records the first entries, and a
/// second one of pairs and of buckets that lie in two groups.
template <bool once>
__device__ __forceinline__ void stage(RowRecords<once>& own, std::uint32_t begin, int place,
                                      std::uint32_t* entries) {
  const auto put = [&](int at, std::uint32_t entry) {
    if (static_cast<std::uint32_t>(at) < staged) entries[at] = entry;
  };
  own.visit([&](int u, int hash) {
    const bool is_pair = own.kind(u) == MatchRecord::pair;
    const int count = is_pair ? 2 : own.is_crowded(u) ? 0 : static_cast<int>(own.kind(u));
    const std::uint32_t low = is_pair ? own.low(u) & MatchRecord::place_mask : own.low(u),
                        entry = low + (count == 1 || is_pair
                                           ? is_id
                                           : static_cast<std::uint32_t>(hash * own.tokens) + begin);
    if (count > 0) put(place, entry);
    const int left = group - (place & (group - 1));  // entries of the group of `place`
    const int next = is_pair ? 1 : left;
    if (next < count)
      put(place + next,
          is_pair ? is_id | own.low(u) >> MatchRecord::place_bits : entry + static_cast<std::uint32_t>(left));
    place += count;
  });
}

template <class Id>
__device__ __forceinline__ void write_ids(const std::uint32_t* entries, std::uint32_t count, const Id* order,
                                          Id* ids) {
  constexpr int items = pack_items<Id>;
  for (std::uint32_t i = group * threadIdx.x; i < count; i += group * threads) {
    const Pack<std::uint32_t, 4> low = load_pack<4>(entries + i), high = load_pack<4>(entries + i + 4);
    Pack<Id, items> pack[group / items];
    std::uint32_t entry = 0;
#pragma unroll
    for (int v = 0; v < group; ++v) {
      const std::uint32_t next = v < 4 ? low.item[v % 4] : high.item[v % 4];
      entry = next == empty ? entry + 1 : next;
      pack[v / items].item[v % items] = static_cast<Id>(entry & ~is_id);
      if ((entry & is_id) == 0) pack[v / items].item[v % items] = order[entry];
    }
#pragma unroll
    for (int v = 0; v < group / items; ++v)
      if (i + v * items < count) store_pack(ids + i + v * items, pack[v]);
  }
}

/// Number of the sequence that holds `row`, for a warp whose first row is `first`: the sequences that end at or
/// before it, 32 of them asked at a time.
__device__ __forceinline__ int sequence_of(const Sequences& sequences, int first, int row) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, count = static_cast<int>(sequences.count);
  int low = 0, high = count;  // the answer for `first` lies in [low, high]
  while (low < high) {
    const int step = (high - low + warp_lanes - 1) / warp_lanes, asked = low + (lane + 1) * step - 1;
    const bool is_before = asked < high && sequences.offsets[asked + 1] <= first;
    low += __popc(__ballot_sync(0xFFFFFFFFu, is_before)) * step;
    high = min(high, low + step - 1);
  }
  while (low < count && sequences.offsets[low + 1] <= row) ++low;
  return low;
}

/// 2^log_threads threads a row, `share` hashes each.
template <class Id, bool once>
__global__ void __launch_bounds__(threads, blocks_together)
    link(LinkWork<Id> work, int log_threads, int share) {
  __shared__ __align__(16) std::uint32_t entries[staged];
  __shared__ std::uint32_t shared_base;
  constexpr std::uint32_t ids_of_word = sizeof(std::uint32_t) / sizeof(Id),
                          ids_of_run = run_words * ids_of_word;
  const auto tokens = static_cast<int>(work.sequences.tokens), thread = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x) * (threads >> log_threads) + (thread >> log_threads),
            part = thread & ((1 << log_threads) - 1);
  const std::int64_t first_record = static_cast<std::int64_t>(blockIdx.y) * work.hashes * tokens;
  RowRecords<once> own{work.records + first_record + row, tokens, min(work.hashes, part * share),
                       min(work.hashes, part * share + share)};
  if (row < tokens) own.load(own.first);  // on their way while the sequence is looked up
  const int lane = thread % warp_lanes,
            sequence = sequence_of(work.sequences, row - (lane >> log_threads), row);
  const bool is_inside = row < tokens && sequence < work.sequences.count;
  const auto begin = is_inside ? static_cast<std::uint32_t>(work.sequences.offsets[sequence]) : 0;
  if (!is_inside) own.last = own.first;
  clear(entries);
  using Count = Totals<once>;
  Count count, all;
  own.visit([&](int u, int) {
    count.word += own.is_crowded(u) ? typename Count::Word{1} << Count::shift : own.count(u);
  });
  const Count before{scan_block(count.word, all.word)};
  const std::uint32_t few_words = (all.few() + ids_of_run - 1) / ids_of_run * run_words;
  std::uint32_t base = 0;
  if (thread == 0) {
    const std::uint32_t words = few_words + (all.crowded() + run_words - 1) / run_words * run_words;
    if (words > 0) base = atomicAdd(work.used + blockIdx.y, words);
  }
  stage(own, begin, static_cast<int>(before.few()), entries);
  if (thread == 0) {
    if (all.few() < staged) entries[all.few()] = is_id;  // the last group ends with ids that nobody reads
    shared_base = base;
  }
  __syncthreads();
  base = shared_base;
  // a row's ranges, from its first thread's start and its last thread's end
  const Count end{__shfl_down_sync(0xFFFFFFFFu, before.word + count.word, (1 << log_threads) - 1)};
  if (part == 0 && row < tokens) {
    const std::int64_t place = static_cast<std::int64_t>(blockIdx.y) * tokens + row;
    work.few[place] = {base * ids_of_word + before.few(), end.few() - before.few()};
    work.crowded[place] = {base + few_words + before.crowded(), end.crowded() - before.crowded()};
  }
  std::uint32_t* words = work.entries + blockIdx.y * work.capacity + base;
  if (count.crowded() > 0) write_sums(own, begin, words + few_words + before.crowded());
  const Id* order = work.partner_order + first_record;
  Id* ids = reinterpret_cast<Id*>(words);
  write_ids(entries, min(all.few(), std::uint32_t{staged}), order, ids);
  for (std::uint32_t chunk = staged; chunk < all.few(); chunk += staged) {
    const std::uint32_t left = all.few() - chunk;
    __syncthreads();
    clear(entries);
    __syncthreads();
    if (once) own.load(own.first);  // again, as registers are few
    stage(own, begin, static_cast<int>(before.few() - chunk), entries);
    if (thread == 0 && left < staged) entries[left] = is_id;
    __syncthreads();
    write_ids(entries, min(left, std::uint32_t{staged}), order, ids + chunk);
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
  int log_threads = 0;
  while (log_threads < 5 && together << log_threads < work.hashes) ++log_threads;
  const int rows = threads >> log_threads, share = (work.hashes + (1 << log_threads) - 1) >> log_threads;
  const std::int64_t tiles = (work.sequences.tokens + rows - 1) / rows;
  const dim3 blocks(static_cast<unsigned>(tiles), static_cast<unsigned>(work.heads));
  if (share <= together)
    link<Id, true><<<blocks, threads, 0, cuda.stream>>>(work, log_threads, share);
  else
    link<Id, false><<<blocks, threads, 0, cuda.stream>>>(work, log_threads, share);
  check_launch("collisions: link");
}

template std::int64_t link_capacity<std::uint16_t>(std::int64_t, int);
template std::int64_t link_capacity<std::uint32_t>(std::int64_t, int);
template void link_rows<std::uint16_t>(Cuda&, const LinkWork<std::uint16_t>&);
template void link_rows<std::uint32_t>(Cuda&, const LinkWork<std::uint32_t>&);

}  // namespace tern::kernels
