// Matches both sides of long sequences, or of codes with more bits than shared memory has room for: stable
// counting sorts of a few bits a pass (Knuth, The Art of Computer Programming 3, 5.2.5), a block for each chunk
// of a sequence, then binary searches. Deterministic. Cost rows * (passes + log rows).
#include "kernels/cuda/collisions.cuh"

namespace tern::kernels {
namespace {

constexpr int digit_bits = 10;  // of one pass, at most
constexpr int chunk_rows = 16384, sort_threads = 512, sort_warps = sort_threads / warp_lanes;
constexpr int scan_threads = 1024, match_threads = 256;
constexpr int stride = sort_warps + 1;  // of a digit's counters: odd, against bank conflicts

template <class Id, class Code>
struct SortedSide {
  const Code* codes;
  Id *order, *spare;  ///< [lists][tokens]; the spare order is used by several passes
};

/// Both sides, which the block's y tells apart. One pass moves rows from `order` to `spare` or back.
template <class Id, class Code>
struct SortWork {
  Sequences sequences;
  SortedSide<Id, Code> q, k;
  std::uint32_t* counts;  ///< [sides][lists * sequences][digits][chunks]: how many, later where
  std::int64_t lists;
  int chunks, digit, shift;
  bool is_first, to_order;

  __device__ SortedSide<Id, Code> side() const { return blockIdx.y == 0 ? q : k; }
  __device__ std::uint32_t* counts_of(std::int64_t list_sequence) const {
    return counts + ((blockIdx.y * lists * sequences.count + list_sequence) * chunks << digit);
  }
};

/// A block's rows: `count` of them from `first` of the sequence.
struct Chunk {
  std::int64_t list_sequence, place;  ///< place: of the sequence's first row in the arrays of all lists
  int index, first, count;

  template <class Id, class Code>
  __device__ explicit Chunk(const SortWork<Id, Code>& work) {
    index = static_cast<int>(blockIdx.x % work.chunks);
    list_sequence = blockIdx.x / work.chunks;
    const SequenceRange range =
        sequence_range(work.sequences, static_cast<int>(list_sequence % work.sequences.count));
    place = list_sequence / work.sequences.count * work.sequences.tokens + range.begin;
    first = index * chunk_rows;
    count = min(chunk_rows, range.length - first);
  }
};

/// The rows of a side as a pass reads them.
template <class Id, class Code>
struct PassRows {
  const Code* codes;
  const Id* from;  ///< null: 0, 1, ...
  int shift;
  std::uint32_t mask;

  __device__ PassRows(const SortWork<Id, Code>& work, const Chunk& chunk)
      : codes(work.side().codes + chunk.place),
        from(work.is_first ? nullptr : (work.to_order ? work.side().spare : work.side().order) + chunk.place),
        shift(work.shift),
        mask((1u << work.digit) - 1) {}
  __device__ __forceinline__ std::uint32_t row(int place) const {
    return from == nullptr ? static_cast<std::uint32_t>(place) : from[place];
  }
  __device__ __forceinline__ std::uint32_t digit(std::uint32_t row) const {
    return (std::uint32_t{codes[row]} >> shift) & mask;
  }
};

template <class Id, class Code>
__global__ void __launch_bounds__(sort_threads) count_digits(SortWork<Id, Code> work) {
  extern __shared__ std::uint32_t counters[];
  const Chunk chunk(work);
  const int digits = 1 << work.digit;
  for (int i = static_cast<int>(threadIdx.x); i < digits; i += sort_threads) counters[i] = 0;
  __syncthreads();
  const PassRows<Id, Code> rows(work, chunk);
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < chunk.count; i += sort_threads)
    atomicAdd(&counters[rows.digit(rows.row(chunk.first + i))], 1u);
  __syncthreads();
  std::uint32_t* counts = work.counts_of(chunk.list_sequence) + chunk.index;
  for (int i = static_cast<int>(threadIdx.x); i < digits; i += sort_threads)
    counts[static_cast<std::int64_t>(i) * work.chunks] = counters[i];
}

/// Exclusive sums of values[0 .. size) over the block, in place.
template <int threads>
__device__ __forceinline__ void scan_block(std::uint32_t* values, int size) {
  __shared__ std::uint32_t warp_totals[threads / warp_lanes];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_lanes, warp = thread / warp_lanes;
  const int share = (size + threads - 1) / threads, first = min(size, thread * share),
            last = min(size, first + share);
  std::uint32_t own = 0;
  for (int i = first; i < last; ++i) own += values[i];
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
    const std::uint32_t value = values[i];
    values[i] = base;
    base += value;
  }
  __syncthreads();
}

template <class Id, class Code>
__global__ void __launch_bounds__(scan_threads) scan_counts(SortWork<Id, Code> work) {
  scan_block<scan_threads>(work.counts_of(blockIdx.x), work.chunks << work.digit);
}

/// Each warp owns a run of the chunk's rows; its counters say where its next row of a digit goes.
template <class Id, class Code>
__global__ void __launch_bounds__(sort_threads) move_rows(SortWork<Id, Code> work) {
  extern __shared__ std::uint32_t counters[];
  const Chunk chunk(work);
  if (chunk.count <= 0) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / warp_lanes, lane = thread % warp_lanes;
  const int run = (chunk.count + sort_threads - 1) / sort_threads * warp_lanes;
  const int first = min(chunk.count, warp * run), last = min(chunk.count, first + run),
            digits = 1 << work.digit;
  for (int i = thread; i < stride * digits; i += sort_threads) counters[i] = 0;
  __syncthreads();
  const PassRows<Id, Code> rows(work, chunk);
#pragma unroll 8
  for (int i = first + lane; i < last; i += warp_lanes)
    atomicAdd(&counters[rows.digit(rows.row(chunk.first + i)) * stride + warp], 1u);
  __syncthreads();
  const std::uint32_t* starts = work.counts_of(chunk.list_sequence) + chunk.index;
  for (int i = thread; i < digits; i += sort_threads) {
    std::uint32_t place = starts[static_cast<std::int64_t>(i) * work.chunks];
    for (int w = 0; w < sort_warps; ++w) {
      const std::uint32_t count = counters[i * stride + w];
      counters[i * stride + w] = place;
      place += count;
    }
  }
  __syncthreads();
  Id* to = (work.to_order ? work.side().order : work.side().spare) + chunk.place;
#pragma unroll 4
  for (int base = first; base < last; base += warp_lanes) {
    const bool active = base + lane < last;
    const std::uint32_t row = active ? rows.row(chunk.first + base + lane) : 0;
    const std::uint32_t digit = active ? rows.digit(row) : ~0u;
    const std::uint32_t same = __match_any_sync(0xFFFFFFFFu, digit);
    std::uint32_t* counter = &counters[digit * stride + warp];
    const std::uint32_t before = active ? *counter : 0;
    __syncwarp();
    if (active) to[before + __popc(same & ((1u << lane) - 1))] = static_cast<Id>(row);
    if (active && lane == __ffs(same) - 1) *counter = before + __popc(same);
    __syncwarp();
  }
}

/// One side of one sequence in the order of its codes.
template <class Id, class Code>
struct SortedRows {
  const Code* codes;
  const Id* order;
  std::uint32_t length;

  __device__ __forceinline__ std::uint32_t code(std::uint32_t place) const { return codes[order[place]]; }
  /// First place in [low, high) with at least `wanted`, else high.
  __device__ __forceinline__ std::uint32_t lower_bound(std::uint32_t low, std::uint32_t high,
                                                       std::uint32_t wanted) const {
    while (low < high) {
      const std::uint32_t middle = (low + high) / 2;
      if (code(middle) < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  /// Places of `wanted` from `first` on.
  __device__ __forceinline__ std::uint32_t count_from(std::uint32_t first, std::uint32_t wanted) const {
    std::uint32_t reach = 1;
    while (first + reach < length && code(first + reach) == wanted) reach *= 2;
    return lower_bound(first, min(first + reach, length), wanted + 1) - first;
  }
};

/// A thread for each own row, in the order of the codes: a warp's searches run side by side.
template <class Id, class Code>
__global__ void __launch_bounds__(match_threads) match_sorted(MatchWork<Id, Code> work, int tiles) {
  const int tile = static_cast<int>(blockIdx.x % tiles),
            sequence = static_cast<int>(blockIdx.x / tiles % work.sequences.count);
  const auto list = static_cast<int>(blockIdx.x / tiles / work.sequences.count);
  const SequenceRange range = sequence_range(work.sequences, sequence);
  const auto own_place = static_cast<std::uint32_t>(tile) * match_threads + threadIdx.x;
  const auto length = static_cast<std::uint32_t>(range.length);
  if (own_place >= length) return;
  const std::int64_t place = list * work.sequences.tokens + range.begin;
  const SortedRows<Id, Code> own{work.q.codes + place, work.q.order + place, length};
  const SortedRows<Id, Code> partner{work.k.codes + place, work.k.order + place, length};
  const std::uint32_t row = own.order[own_place], code = own.codes[row];
  const std::uint32_t first = partner.lower_bound(0, length, code);
  const std::uint32_t count = partner.count_from(first, code);
  work.q.records[place + row] = MatchRecord::of(count, count == 1 ? partner.order[first] : first);
  if (count <= few_rows || (own_place > 0 && own.code(own_place - 1) == code)) return;
  const int segment = work.q.crowded.segments > 1 ? list % work.hashes : 0;
  const std::uint32_t slot = atomicAdd(work.q.crowded.count + segment, 1u);
  work.q.crowded.buckets[segment * work.q.crowded.capacity + slot] = {
      list, sequence, code, own_place, own.count_from(own_place, code), first, count};
}

template <class Id, class Code>
void match(Cuda& cuda, const MatchWork<Id, Code>& work) {
  const auto tiles = static_cast<int>((work.sequences.longest + match_threads - 1) / match_threads);
  const std::int64_t blocks = work.lists * work.sequences.count * tiles;
  require(blocks < std::int64_t{1} << 31,
          "collisions: (heads * hashes) * sequences * (longest / {}) must lie below 2^31, got {} * {} * {}; "
          "put fewer short sequences beside a long one",
          match_threads, work.lists, work.sequences.count, tiles);
  match_sorted<Id, Code><<<static_cast<unsigned>(blocks), match_threads, 0, cuda.stream>>>(work, tiles);
  check_launch("collisions: match_sorted");
}

template <class Id, class Code>
void sort_sides(Cuda& cuda, SortWork<Id, Code> work, int bits) {
  const int passes = (bits + digit_bits - 1) / digit_bits;
  work.digit = (bits + passes - 1) / passes;
  work.chunks = static_cast<int>((work.sequences.longest + chunk_rows - 1) / chunk_rows);
  const std::int64_t rows = work.lists * work.sequences.tokens, sorts = work.lists * work.sequences.count;
  const Scratch<Id> spare(cuda, passes > 1 ? 2 * rows : 0);
  const Scratch<std::uint32_t> counts(cuda, 2 * sorts * work.chunks << work.digit);
  work.q.spare = spare.data();
  work.k.spare = spare.data() + (passes > 1 ? rows : 0);
  work.counts = counts.data();
  constexpr int most_bytes = static_cast<int>(sizeof(std::uint32_t)) * stride << digit_bits;
  check_cuda(cudaFuncSetAttribute(move_rows<Id, Code>, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes),
             "collisions: shared memory");
  const dim3 blocks(static_cast<unsigned>(sorts * work.chunks), 2), scans(static_cast<unsigned>(sorts), 2);
  const std::size_t bytes = sizeof(std::uint32_t) << work.digit;
  for (int pass = 0; pass < passes; ++pass) {
    work.shift = pass * work.digit;
    work.is_first = pass == 0;
    work.to_order = (passes - pass) % 2 == 1;
    count_digits<Id, Code><<<blocks, sort_threads, bytes, cuda.stream>>>(work);
    check_launch("collisions: count_digits");
    scan_counts<Id, Code><<<scans, scan_threads, 0, cuda.stream>>>(work);
    check_launch("collisions: scan_counts");
    move_rows<Id, Code><<<blocks, sort_threads, stride * bytes, cuda.stream>>>(work);
    check_launch("collisions: move_rows");
  }
}

}  // namespace

template <class Id, class Code>
void match_long_rows(Cuda& cuda, const MatchWork<Id, Code>& work) {
  const Scratch<Id> q_order(cuda, work.q.order == nullptr ? work.lists * work.sequences.tokens : 0);
  MatchWork<Id, Code> both = work;
  if (both.q.order == nullptr) both.q.order = q_order.data();
  SortWork<Id, Code> sort{};
  sort.sequences = work.sequences;
  sort.q = {both.q.codes, both.q.order, nullptr};
  sort.k = {both.k.codes, both.k.order, nullptr};
  sort.lists = work.lists;
  sort_sides(cuda, sort, work.bits);
  match(cuda, both);
  if (both.k.records == nullptr) return;
  std::swap(both.q, both.k);
  match(cuda, both);
}

#define TERN_INSTANTIATE(Id, Code) template void match_long_rows<Id, Code>(Cuda&, const MatchWork<Id, Code>&);
TERN_INSTANTIATE(std::uint16_t, std::uint16_t)
TERN_INSTANTIATE(std::uint16_t, std::uint32_t)
TERN_INSTANTIATE(std::uint32_t, std::uint16_t)
TERN_INSTANTIATE(std::uint32_t, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
