// Rows of clusters: places, members, and rows moved to and from tokens. Deterministic: a token's rows are added
// by one thread in the order of the clusters. Memory-bound; members cost three reads of a sequence's scores by
// one block, the last two from the L2 cache.
#include <cub/block/block_scan.cuh>

#include "kernels/cluster_rows.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, scan_threads = 1024;

using Members = ClusterMembers<std::int32_t>;

/// One block: a prefix sum over the sequences.
__global__ void __launch_bounds__(scan_threads)
    place_clusters_kernel(Sequences sequences, ClusterRule rule, std::int32_t* offsets, std::int32_t* order) {
  using Scan = cub::BlockScan<int, scan_threads>;
  __shared__ typename Scan::TempStorage storage;
  int placed = 0;  // rows of one cluster in all sequences before
  for (std::int64_t first = 0; first < sequences.count; first += scan_threads) {
    const std::int64_t s = first + threadIdx.x;
    const bool is_there = s < sequences.count;
    const int length = is_there ? rule.length(sequence_range(sequences, static_cast<int>(s)).length) : 0;
    int before, total;
    Scan(storage).ExclusiveSum(length, before, total);
    __syncthreads();
    for (int c = 0; is_there && c < rule.clusters; ++c) {
      offsets[s * rule.clusters + c] = (placed + before) * rule.clusters + c * length;
      order[s * rule.clusters + c] = sequences.order[s] * rule.clusters + c;
    }
    placed += total;
  }
  if (threadIdx.x == 0) offsets[sequences.count * rule.clusters] = placed * rule.clusters;
}

constexpr int digit_bits = score_bits / 2, digits = 1 << digit_bits;
/// Blocks for sequences of up to so many tokens, and for longer ones.
constexpr int short_tokens = 4096, short_threads = 256, long_threads = 1024;
/// Neighbouring tokens of one thread; a block's number of them fits 16 bits.
constexpr int thread_tokens = 4;

/// What one block of take_tokens_kernel shares.
template <int threads>
struct TakeShared {
  typename cub::BlockScan<int, threads>::TempStorage scan;
  int histogram[digits];
  int digit, before;  ///< what find_digit found
};

/// The digit of the element of rank `rank` (from 0) among those that visit(count) counts by digit, and into
/// `shared.before` how many have lower digits.
template <int threads, class Visit>
__device__ __forceinline__ int find_digit(TakeShared<threads>& shared, int rank, const Visit& visit) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread < digits) shared.histogram[thread] = 0;
  __syncthreads();
  visit([&](int digit) { atomicAdd(&shared.histogram[digit], 1); });
  __syncthreads();
  const int own = thread < digits ? shared.histogram[thread] : 0;
  int before;
  cub::BlockScan<int, threads>(shared.scan).ExclusiveSum(own, before);
  if (before <= rank && rank < before + own) shared.digit = thread, shared.before = before;
  __syncthreads();
  return shared.digit;
}

/// A cluster takes the codes below `code` and the first `ties` that equal it.
struct Threshold {
  int code, ties;
};
/// By a radix selection: the upper digit of the last code that is taken, then the lower one.
template <int threads, class T>
__device__ __forceinline__ Threshold find_threshold(TakeShared<threads>& shared, const T* scores, int length,
                                                    int taken) {
  const auto each_code = [&](const auto& body) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < length; i += threads)
      body(score_code(to_accumulate(scores[i])));
  };
  int rank = taken - 1;
  const int upper = find_digit(
      shared, rank, [&](const auto& count) { each_code([&](int code) { count(code >> digit_bits); }); });
  rank -= shared.before;
  const int lower = find_digit(shared, rank, [&](const auto& count) {
    each_code([&](int code) {
      if (code >> digit_bits == upper) count(code & (digits - 1));
    });
  });
  return {upper << digit_bits | lower, rank - shared.before + 1};
}

/// A block for each sequence, and for the rows of none, of each head and cluster; longest sequences first.
template <int threads, class T>
__global__ void __launch_bounds__(threads)
    take_tokens_kernel(Sequences sequences, ClusterRule rule, const T* all_scores, const std::int32_t* offsets,
                       Members members) {
  __shared__ TakeShared<threads> shared;
  const unsigned lists = static_cast<unsigned>(members.heads) * static_cast<unsigned>(members.clusters);
  const auto list = static_cast<int>(blockIdx.x % lists), item = static_cast<int>(blockIdx.x / lists);
  const int head = list / members.clusters, cluster = list % members.clusters;
  const SequenceRange range = sequence_range(sequences, item < sequences.count ? sequences.order[item] : item);
  const std::int64_t begin = list * members.tokens + range.begin;
  const T* const scores = all_scores + begin;
  std::int32_t* const rows = members.row + begin;
  if (range.index == sequences.count) {
    for (int i = static_cast<int>(threadIdx.x); i < range.length; i += threads) rows[i] = -1;
    return;
  }
  if (range.length == 0) return;
  const Threshold last = find_threshold(shared, scores, range.length, rule.length(range.length));
  const int first_row = offsets[std::int64_t{range.index} * members.clusters + cluster];
  int below = 0, equal = 0;  // of the tokens before
  for (int first = 0; first < range.length; first += threads * thread_tokens) {
    const int own = first + static_cast<int>(threadIdx.x) * thread_tokens;
    int code[thread_tokens], counts = 0;  // two counts in one number
#pragma unroll
    for (int e = 0; e < thread_tokens; ++e) {
      code[e] = own + e < range.length ? score_code(to_accumulate(scores[own + e])) : 1 << score_bits;
      counts += (code[e] < last.code ? 1 : 0) + (code[e] == last.code ? 1 << 16 : 0);
    }
    int before, total;
    __syncthreads();
    cub::BlockScan<int, threads>(shared.scan).ExclusiveSum(counts, before, total);
    int lower = below + (before & 0xFFFF), ties = equal + (before >> 16);
#pragma unroll
    for (int e = 0; e < thread_tokens; ++e) {
      if (own + e >= range.length) break;
      const bool is_tie = code[e] == last.code, is_taken = code[e] < last.code || (is_tie && ties < last.ties);
      const int row = first_row + lower + (ties < last.ties ? ties : last.ties);
      rows[own + e] = is_taken ? row : -1;
      if (is_taken) members.token[std::int64_t{row} * members.heads + head] = range.begin + own + e;
      lower += code[e] < last.code ? 1 : 0;
      ties += is_tie ? 1 : 0;
    }
    below += total & 0xFFFF;
    equal += total >> 16;
  }
}

__global__ void __launch_bounds__(threads_per_block) count_clusters_kernel(Members members) {
  for (std::int64_t i = thread_index(); i < members.tokens * members.heads; i += grid_threads()) {
    const auto head = static_cast<int>(i % members.heads);
    const std::int64_t token = i / members.heads;
    int count = 0;
    for (int c = 0; c < members.clusters; ++c) count += members.rows_of(head, c)[token] >= 0 ? 1 : 0;
    members.count[i] = count;
  }
}

/// What each row of a token counts for.
template <class T>
__device__ __forceinline__ Accumulate<T> weight_of(const MovedRows<T>& rows, std::int64_t token, int head) {
  using A = Accumulate<T>;
  const int count = rows.members.count[token * rows.members.heads + head];
  return rows.averages && count > 1 ? A(1) / static_cast<A>(count) : A(1);
}

/// A place in a tensor of head rows that a thread of the grid works on.
struct RowPlace {
  std::int64_t row;
  int head, column;
};
template <class T>
__device__ __forceinline__ RowPlace place_of(std::int64_t index, const Heads<T>& x, int items) {
  const int packs = x.width / items;
  const std::int64_t pair = index / packs;
  return {pair / x.heads, static_cast<int>(pair % x.heads), static_cast<int>(index % packs) * items};
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block) gather_members_kernel(MovedRows<T> rows) {
  const std::int64_t count = rows.to.tokens * rows.to.heads * (rows.to.width / items);
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const RowPlace place = place_of(i, rows.to, items);
    const int token = rows.members.token[place.row * rows.members.heads + place.head];
    Pack<T, items> pack{};
    if (token >= 0) {
      const Accumulate<T> weight = weight_of(rows, token, place.head);
      pack = load_pack<items>(row_of(rows.from, token, place.head) + place.column);
#pragma unroll
      for (int e = 0; e < items; ++e) pack.item[e] = from_accumulate<T>(weight * to_accumulate(pack.item[e]));
    }
    store_pack(row_of(rows.to, place.row, place.head) + place.column, pack);
  }
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block) combine_members_kernel(MovedRows<T> rows) {
  const std::int64_t count = rows.to.tokens * rows.to.heads * (rows.to.width / items);
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const RowPlace place = place_of(i, rows.to, items);
    Accumulate<T> sums[items] = {};
    for (int cluster = 0; cluster < rows.members.clusters; ++cluster) {
      const int row = rows.members.rows_of(place.head, cluster)[place.row];
      if (row < 0) continue;
      const Pack<T, items> pack = load_pack<items>(row_of(rows.from, row, place.head) + place.column);
#pragma unroll
      for (int e = 0; e < items; ++e) sums[e] += to_accumulate(pack.item[e]);
    }
    const Accumulate<T> weight = weight_of(rows, place.row, place.head);
    Pack<T, items> out;
#pragma unroll
    for (int e = 0; e < items; ++e) out.item[e] = from_accumulate<T>(weight * sums[e]);
    store_pack(row_of(rows.to, place.row, place.head) + place.column, out);
  }
}

/// Runs the one of two kernels whose packs the rows allow; both write all of `to`.
template <class T>
void move_rows(Cuda& cuda, const char* name, const MovedRows<T>& rows, void (*packed)(MovedRows<T>),
               void (*single)(MovedRows<T>)) {
  const std::int64_t count = rows.to.tokens * rows.to.heads * rows.to.width;
  if (count == 0) return;
  const bool is_packed = rows_are_packed(rows.from) && rows_are_packed(rows.to);
  const unsigned blocks = grid_for(cuda, is_packed ? count / pack_items<T> : count, threads_per_block);
  (is_packed ? packed : single)<<<blocks, threads_per_block, 0, cuda.stream>>>(rows);
  check_launch(name);
}

}  // namespace

void place_clusters(Cuda& cuda, const Sequences& sequences, ClusterRule rule, std::int32_t* offsets,
                    std::int32_t* order) {
  place_clusters_kernel<<<1, scan_threads, 0, cuda.stream>>>(sequences, rule, offsets, order);
  check_launch("place_clusters");
}

template <class T>
void take_tokens(Cuda& cuda, const Sequences& sequences, ClusterRule rule, const T* scores,
                 const std::int32_t* offsets, const Members& members) {
  const std::int64_t count = members.tokens * members.heads;
  if (count == 0) return;
  const std::int64_t blocks = (sequences.count + 1) * members.heads * members.clusters;
  ensure(blocks <= std::numeric_limits<std::int32_t>::max(), "take_tokens: {} blocks", blocks);
  const bool is_short = sequences.longest <= short_tokens;
  const auto kernel = is_short ? take_tokens_kernel<short_threads, T> : take_tokens_kernel<long_threads, T>;
  kernel<<<static_cast<unsigned>(blocks), is_short ? short_threads : long_threads, 0, cuda.stream>>>(
      sequences, rule, scores, offsets, members);
  check_launch("take_tokens");
  count_clusters_kernel<<<grid_for(cuda, count, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      members);
  check_launch("take_tokens: counts");
}

template <class T>
void gather_members(Cuda& cuda, const MovedRows<T>& rows) {
  move_rows<T>(cuda, "gather_members", rows, gather_members_kernel<pack_items<T>, T>,
               gather_members_kernel<1, T>);
}
template <class T>
void combine_members(Cuda& cuda, const MovedRows<T>& rows) {
  move_rows<T>(cuda, "combine_members", rows, combine_members_kernel<pack_items<T>, T>,
               combine_members_kernel<1, T>);
}

#define INSTANTIATE(T)                                                                              \
  template void gather_members<T>(Cuda&, const MovedRows<T>&);                                      \
  template void combine_members<T>(Cuda&, const MovedRows<T>&);                                     \
  template void take_tokens<T>(Cuda&, const Sequences&, ClusterRule, const T*, const std::int32_t*, \
                               const Members&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
