// Sums of the rows of crowded buckets. A warp takes a bucket; long ones are cut into parts, which a second
// kernel sums and a third one joins. Deterministic: fixed order of additions. Cost: width for each row of a
// bucket.
#include <bit>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256;
constexpr int part_rows = 128;  // short chains of additions keep rounding errors small

/// Buckets that were cut, and their parts; the order of the entries is of no importance.
struct Cuts {
  CrowdedBucket* bucket;  ///< [capacity]
  uint2* part;            ///< [capacity] number of the bucket, number of the part
  std::uint32_t* count;   ///< buckets, parts
};

template <class T, class Id>
struct CrowdedSums {
  Sequences sequences;
  Collisions<Id> collisions;
  Heads<const T> value;
  T* summed;
  Accumulate<T>* partial;  ///< [lists][tokens / part_rows + 1][width]
  Cuts cuts;

  __device__ __forceinline__ int head(const CrowdedBucket& bucket) const {
    return bucket.list / collisions.hashes;
  }
  __device__ __forceinline__ std::int64_t first_place(const CrowdedBucket& bucket) const {
    return sequences.offsets[bucket.sequence] + static_cast<std::int64_t>(bucket.partner_first);
  }
  __device__ __forceinline__ T* sum_row(const CrowdedBucket& bucket) const {
    const std::int64_t row = summed_row(value.tokens, bucket.list % collisions.hashes, first_place(bucket)),
                       rows = collisions.hashes * summed_rows_of_hash(value.tokens);
    return summed + (head(bucket) * rows + row) * value.width;
  }
  /// Parts start at least part_rows apart, which gives each a row of its own.
  __device__ __forceinline__ Accumulate<T>* partial_row(const CrowdedBucket& bucket, std::uint32_t part) const {
    const std::int64_t place = first_place(bucket) + static_cast<std::int64_t>(part) * part_rows;
    return partial + (bucket.list * (value.tokens / part_rows + 1) + place / part_rows) * value.width;
  }
};

/// The last part has up to twice as many rows less one.
__device__ __forceinline__ std::uint32_t parts_of(const CrowdedBucket& bucket) {
  return max(1u, bucket.partner_count / part_rows);
}

/// Sum of `count` rows that begin at place `first` of a bucket: `lanes` neighbouring lanes share a row, `items`
/// columns each, from `column` on. Valid in all lanes.
template <int items, class T, class Id>
__device__ void sum_rows(const CrowdedSums<T, Id>& p, const CrowdedBucket& bucket, std::uint32_t first,
                         std::uint32_t count, int lanes, int column, Accumulate<T> (&sum)[items]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, together = warp_lanes / lanes;
  const int begin = p.sequences.offsets[bucket.sequence];
  const Id* order =
      p.collisions.partner_order + bucket.list * p.value.tokens + begin + bucket.partner_first + first;
  const T* rows = row_of(p.value, begin, p.head(bucket)) + column;
#pragma unroll
  for (int u = 0; u < items; ++u) sum[u] = {};
  for (std::uint32_t base = 0; base < count; base += warp_lanes) {
    const auto left = static_cast<int>(min(count - base, std::uint32_t{warp_lanes}));
    const std::uint32_t id = lane < left ? std::uint32_t{order[base + lane]} : 0;
#pragma unroll 8
    for (int i = 0; i < left; i += together) {
      const int from = i + lane / lanes;
      const std::uint32_t row = __shfl_sync(0xFFFFFFFFu, id, from % warp_lanes);
      Pack<T, items> pack{};
      if (from < left && column < p.value.width)
        pack = load_pack<items>(rows + static_cast<std::int64_t>(row) * p.value.token_stride);
#pragma unroll
      for (int u = 0; u < items; ++u) sum[u] += to_accumulate(pack.item[u]);
    }
  }
  for (int step = lanes; step < warp_lanes; step *= 2) {
#pragma unroll
    for (int u = 0; u < items; ++u) sum[u] += __shfl_xor_sync(0xFFFFFFFFu, sum[u], step);
  }
}

/// Calls visit(bucket) for all crowded buckets, each in one warp.
template <class Visit>
__device__ __forceinline__ void visit_buckets(const CrowdedBuckets& crowded, const Visit& visit) {
  const auto warps = static_cast<std::uint32_t>(grid_threads() / warp_lanes);
  auto next = static_cast<std::uint32_t>(thread_index() / warp_lanes);
  for (int segment = 0; segment < crowded.segments; ++segment) {
    const std::uint32_t count = crowded.count[segment];
    for (; next < count; next += warps) visit(crowded.buckets[segment * crowded.capacity + next]);
    next -= count;
  }
}

template <int items, class T, class Id>
__global__ void __launch_bounds__(threads) sum_buckets(CrowdedSums<T, Id> p, int lanes) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  visit_buckets(p.collisions.crowded, [&](const CrowdedBucket& bucket) {
    const std::uint32_t parts = parts_of(bucket);
    if (parts > 1) {
      std::uint32_t slot = 0, first = 0;
      if (lane == 0) {
        slot = atomicAdd(p.cuts.count, 1u);
        first = atomicAdd(p.cuts.count + 1, parts);
        p.cuts.bucket[slot] = bucket;
      }
      slot = __shfl_sync(0xFFFFFFFFu, slot, 0);
      first = __shfl_sync(0xFFFFFFFFu, first, 0);
      for (std::uint32_t i = lane; i < parts; i += warp_lanes) p.cuts.part[first + i] = {slot, i};
      return;
    }
    for (int start = 0; start < p.value.width; start += lanes * items) {
      const int column = start + lane % lanes * items;
      Accumulate<T> sum[items];
      sum_rows<items>(p, bucket, 0, bucket.partner_count, lanes, column, sum);
      if (lane >= lanes || column >= p.value.width) continue;
      Pack<T, items> pack;
#pragma unroll
      for (int u = 0; u < items; ++u) pack.item[u] = from_accumulate<T>(sum[u]);
      store_pack(p.sum_row(bucket) + column, pack);
    }
  });
}

template <int items, class T, class Id>
__global__ void __launch_bounds__(threads) sum_parts(CrowdedSums<T, Id> p, int lanes) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::uint32_t count = p.cuts.count[1];
  for (auto i = static_cast<std::uint32_t>(thread_index() / warp_lanes); i < count;
       i += static_cast<std::uint32_t>(grid_threads() / warp_lanes)) {
    const uint2 cut = p.cuts.part[i];
    const CrowdedBucket bucket = p.cuts.bucket[cut.x];
    const std::uint32_t first = cut.y * part_rows,
                        rows = cut.y + 1 == parts_of(bucket) ? bucket.partner_count - first : part_rows;
    for (int start = 0; start < p.value.width; start += lanes * items) {
      const int column = start + lane % lanes * items;
      Accumulate<T> sum[items];
      sum_rows<items>(p, bucket, first, rows, lanes, column, sum);
      if (lane >= lanes || column >= p.value.width) continue;
#pragma unroll
      for (int u = 0; u < items; ++u) p.partial_row(bucket, cut.y)[column + u] = sum[u];
    }
  }
}

/// A block takes a bucket; its warps take turns at the parts, and what they found is added in their order.
template <class T, class Id>
__global__ void __launch_bounds__(threads) join_parts(CrowdedSums<T, Id> p) {
  using A = Accumulate<T>;
  constexpr int warps = threads / warp_lanes;
  __shared__ A shared[warps][warp_lanes];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  for (std::uint32_t i = blockIdx.x; i < p.cuts.count[0]; i += gridDim.x) {
    const CrowdedBucket bucket = p.cuts.bucket[i];
    const std::uint32_t parts = parts_of(bucket);
    for (int start = 0; start < p.value.width; start += warp_lanes) {
      const int column = start + lane;
      A sum{};
      if (column < p.value.width) {
#pragma unroll 4
        for (std::uint32_t part = warp; part < parts; part += warps) sum += p.partial_row(bucket, part)[column];
      }
      shared[warp][lane] = sum;
      __syncthreads();
      if (warp == 0 && column < p.value.width) {
        for (int w = 1; w < warps; ++w) sum += shared[w][lane];
        p.sum_row(bucket)[column] = from_accumulate<T>(sum);
      }
      __syncthreads();
    }
  }
}

template <int items, class T, class Id>
void launch_sums(Cuda& cuda, const CrowdedSums<T, Id>& p) {
  const auto needed = static_cast<unsigned>((p.value.width + items - 1) / items);
  const int lanes = static_cast<int>(std::min(std::bit_ceil(needed), unsigned{warp_lanes}));
  const auto blocks = static_cast<unsigned>(cuda.multiprocessors) * 8;
  sum_buckets<items><<<blocks, threads, 0, cuda.stream>>>(p, lanes);
  check_launch("sum_crowded_rows: sum_buckets");
  if (p.sequences.longest < 2 * part_rows) return;
  sum_parts<items><<<blocks, threads, 0, cuda.stream>>>(p, lanes);
  check_launch("sum_crowded_rows: sum_parts");
  join_parts<<<blocks, threads, 0, cuda.stream>>>(p);
  check_launch("sum_crowded_rows: join_parts");
}

}  // namespace

template <class T, class Id>
void sum_crowded_rows(Cuda& cuda, const Sequences& sequences, const Collisions<Id>& collisions,
                      Heads<const T> partner_value, T* summed) {
  const std::int64_t lists = static_cast<std::int64_t>(collisions.heads) * collisions.hashes,
                     cuts = sequences.longest < 2 * part_rows
                                ? 0
                                : lists * (sequences.tokens / part_rows + 1);  // of all lists, at most
  const Scratch<Accumulate<T>> partial(cuda, cuts * partner_value.width);
  const Scratch<CrowdedBucket> buckets(cuda, cuts);
  const Scratch<uint2> parts(cuda, cuts);
  const CrowdedBuckets& crowded = collisions.crowded;
  std::uint32_t* const count = crowded.counters + crowded.segments * CrowdedBuckets::of_segment;
  const CrowdedSums<T, Id> p{sequences, collisions,     partner_value,
                             summed,    partial.data(), {buckets.data(), parts.data(), count}};
  if (rows_are_packed(partner_value) && is_aligned(16, summed))
    launch_sums<pack_items<T>>(cuda, p);
  else
    launch_sums<1>(cuda, p);
}

#define TERN_INSTANTIATE(T, Id) \
  template void sum_crowded_rows<T, Id>(Cuda&, const Sequences&, const Collisions<Id>&, Heads<const T>, T*);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
