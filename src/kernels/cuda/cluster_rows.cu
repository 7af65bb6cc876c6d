// Rows of clusters: codes of scores, places, members, and rows moved to and from tokens. Deterministic: a
// token's rows are added by one thread in the order of the clusters. Memory-bound.
#include <cub/block/block_scan.cuh>

#include "kernels/cluster_rows.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, scan_threads = 1024;

using Members = ClusterMembers<std::int32_t>;

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    score_codes_kernel(std::int64_t count, const T* scores, std::int32_t* codes) {
  for (std::int64_t i = thread_index(); i < count; i += grid_threads())
    codes[i] = score_code(to_accumulate(scores[i]));
}

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

__global__ void __launch_bounds__(threads_per_block)
    take_tokens_kernel(Sequences sequences, ClusterRule rule, const std::int32_t* order,
                       const std::int32_t* offsets, Members members) {
  const std::int64_t count = std::int64_t{members.heads} * members.clusters * members.tokens;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const auto list = static_cast<int>(i / members.tokens);
    const SequenceRange range = find_sequence(sequences, static_cast<int>(i % members.tokens));
    const int place = static_cast<int>(i % members.tokens) - range.begin;
    if (range.index == sequences.count || place >= rule.length(range.length)) continue;
    const int head = list / members.clusters, cluster = list % members.clusters, token = order[i];
    const std::int64_t row = offsets[std::int64_t{range.index} * members.clusters + cluster] + place;
    members.token[row * members.heads + head] = token;
    members.rows_of(head, cluster)[token] = static_cast<std::int32_t>(row);
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

template <class T>
void score_codes(Cuda& cuda, std::int64_t count, const T* scores, std::int32_t* codes) {
  if (count == 0) return;
  score_codes_kernel<<<grid_for(cuda, count, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      count, scores, codes);
  check_launch("score_codes");
}

void place_clusters(Cuda& cuda, const Sequences& sequences, ClusterRule rule, std::int32_t* offsets,
                    std::int32_t* order) {
  place_clusters_kernel<<<1, scan_threads, 0, cuda.stream>>>(sequences, rule, offsets, order);
  check_launch("place_clusters");
}

void take_tokens(Cuda& cuda, const Sequences& sequences, ClusterRule rule, const std::int32_t* order,
                 const std::int32_t* offsets, const Members& members) {
  const std::int64_t count = members.tokens * members.heads;
  if (count == 0) return;
  take_tokens_kernel<<<grid_for(cuda, count * members.clusters, threads_per_block), threads_per_block, 0,
                       cuda.stream>>>(sequences, rule, order, offsets, members);
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

#define INSTANTIATE(T)                                          \
  template void gather_members<T>(Cuda&, const MovedRows<T>&);  \
  template void combine_members<T>(Cuda&, const MovedRows<T>&); \
  template void score_codes<T>(Cuda&, std::int64_t, const T*, std::int32_t*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
