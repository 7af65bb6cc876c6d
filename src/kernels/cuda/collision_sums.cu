// Sums of the rows of crowded buckets. A warp takes a bucket, a block one of many rows. Where sequences, and
// with them buckets, may be longer still, these are cut into parts, which a second kernel sums and a third one
// joins. Deterministic: fixed order of additions. Cost: width for each row of a bucket.
#include <bit>

#include "kernels/cuda/collision_sums.cuh"
#include "kernels/cuda/heads.cuh"

namespace tern::kernels {
namespace {

using namespace crowded;

constexpr int threads = 256, warps = threads / warp_lanes;
constexpr int blocks_of_multiprocessor = 3;  // as many as registers allow
constexpr int most_alone = 16384;            // rows of a bucket that one block sums

/// A warp's bucket of few rows.
template <int items, class T, class Id>
__device__ __forceinline__ void sum_alone(const CrowdedSums<T, Id>& p, const BucketRows<T, Id>& rows,
                                          int lanes) {
  sum_rows<items>(p, rows, rows.id, 0, rows.bucket.partner_count, lanes,
                  [&](int column, const Accumulate<T>(&sum)[items]) {
                    Pack<T, items> pack;
#pragma unroll
                    for (int u = 0; u < items; ++u) pack.item[u] = from_accumulate<T>(sum[u]);
                    store_pack(p.sum_row(rows.bucket) + column, pack);
                  });
}

/// A block's bucket: its warps take turns at the parts, and what they found is added in their order.
template <int items, class T, class Id>
__device__ void sum_together(const CrowdedSums<T, Id>& p, const CrowdedBucket& bucket, int lanes) {
  using A = Accumulate<T>;
  __shared__ A shared[warps][warp_lanes * items];
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const BucketRows<T, Id> rows(p, bucket);
  const std::uint32_t parts = parts_of(bucket);
#pragma unroll 1
  for (int start = 0; start < p.value.width; start += lanes * items) {
    LaneSum<items, T, Id> sum{p, lanes, start + lane % lanes * items, {}};
    A total[items] = {};
#pragma unroll 1
    for (std::uint32_t part = warp; part < parts; part += warps) {
      const std::uint32_t first = part * sum_part_rows,
                          end = part + 1 == parts ? bucket.partner_count : first + sum_part_rows;
      sum.run(rows, rows.load_id(p, first, end), first, end);
#pragma unroll
      for (int u = 0; u < items; ++u) total[u] += sum.sum[u];
    }
#pragma unroll
    for (int u = 0; u < items; ++u)
      if (lane < lanes) shared[warp][lane * items + u] = total[u];
    __syncthreads();
    const int place = static_cast<int>(threadIdx.x), column = start + place;
    if (place < lanes * items && column < p.value.width) {
      A all{};
      for (int w = 0; w < warps; ++w) all += shared[w][place];
      p.sum_row(bucket)[column] = from_accumulate<T>(all);
    }
    __syncthreads();
  }
}

/// Puts a bucket and its parts among those that were cut, by one warp.
template <class T, class Id>
__device__ __forceinline__ void cut_bucket(const CrowdedSums<T, Id>& p, const CrowdedBucket& bucket) {
  const std::uint32_t lane = threadIdx.x % warp_lanes, parts = parts_of(bucket);
  std::uint32_t slot = 0, first = 0;
  if (lane == 0) {
    slot = atomicAdd(p.cuts.count, 1u);
    first = atomicAdd(p.cuts.count + 1, parts);
    p.cuts.bucket[slot] = bucket;
  }
  slot = __shfl_sync(0xFFFFFFFFu, slot, 0);
  first = __shfl_sync(0xFFFFFFFFu, first, 0);
  for (std::uint32_t i = lane; i < parts; i += warp_lanes) p.cuts.part[first + i] = {slot, i};
}

/// Buckets start, start + gridDim.x, .. of a segment, whose warps take turns at them; returns whether this warp
/// met one of many rows and left it to the block. What leads to the rows of a bucket is fetched while earlier
/// ones are worked off.
template <int items, bool is_cut, class T, class Id>
__device__ __forceinline__ bool sum_segment(const CrowdedSums<T, Id>& p, int segment, std::uint32_t start,
                                            std::uint32_t& count, int lanes) {
  using Rows = BucketRows<T, Id>;
  const CrowdedBuckets& crowded = p.collisions.crowded;
  const std::uint32_t step = gridDim.x * warps;
  std::uint32_t i = start + threadIdx.x / warp_lanes * gridDim.x;
  count = crowded.count[segment];
  if (i >= count) return false;
  bool has_many = false;
  Rows rows(p, Rows::load_word(crowded, segment, i, count));
  std::uint32_t next_word = Rows::load_word(crowded, segment, i + step, count);
#pragma unroll 1
  while (i < count) {
    i += step;
    Rows next;
    if (i < count) {
      next = Rows(p, next_word);
      next_word = Rows::load_word(crowded, segment, i + step, count);
    }
    if (parts_of(rows.bucket) == 1)
      sum_alone<items>(p, rows, lanes);
    else if (is_cut)
      cut_bucket(p, rows.bucket);
    else
      has_many = true;
    rows = next;
  }
  return has_many;
}

/// The block's buckets of many rows in a segment.
template <int items, class T, class Id>
__device__ void sum_long_buckets(const CrowdedSums<T, Id>& p, int segment, std::uint32_t start,
                                 std::uint32_t count, int lanes) {
  const CrowdedBucket* buckets = p.collisions.crowded.buckets + segment * p.collisions.crowded.capacity;
#pragma unroll 1
  for (; start < count; start += gridDim.x * warp_lanes) {
    const std::uint32_t i = start + threadIdx.x % warp_lanes * gridDim.x;
    const bool has_many = i < count && parts_of(buckets[i]) > 1;
    for (std::uint32_t left = __ballot_sync(0xFFFFFFFFu, has_many); left != 0; left &= left - 1) {
      const auto turn = static_cast<std::uint32_t>(__ffs(static_cast<int>(left)) - 1);
      sum_together<items>(p, buckets[start + turn * gridDim.x], lanes);
    }
  }
}

template <int items, bool is_cut, class T, class Id>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor)
    sum_buckets(CrowdedSums<T, Id> p, int lanes) {
  const CrowdedBuckets& crowded = p.collisions.crowded;
  if (crowded.capacity == 0) return;
  std::uint32_t start = blockIdx.x;
#pragma unroll 1
  for (int segment = 0; segment < crowded.segments; ++segment) {
    std::uint32_t count = 0;
    const bool has_many = sum_segment<items, is_cut>(p, segment, start, count, lanes);
    if (!is_cut && __syncthreads_or(has_many)) sum_long_buckets<items>(p, segment, start, count, lanes);
    start = (start + gridDim.x - count % gridDim.x) % gridDim.x;  // goes on where the segment ended
  }
}

template <int items, class T, class Id>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor)
    sum_parts(CrowdedSums<T, Id> p, int lanes) {
  const std::uint32_t count = p.cuts.count[1];
  for (auto i = static_cast<std::uint32_t>(thread_index() / warp_lanes); i < count;
       i += static_cast<std::uint32_t>(grid_threads() / warp_lanes)) {
    const uint2 cut = p.cuts.part[i];
    const BucketRows<T, Id> rows(p, p.cuts.bucket[cut.x]);
    const CrowdedBucket& bucket = rows.bucket;
    const std::uint32_t first = cut.y * sum_part_rows,
                        end = cut.y + 1 == parts_of(bucket) ? bucket.partner_count : first + sum_part_rows;
    sum_rows<items>(p, rows, rows.load_id(p, first, end), first, end, lanes,
                    [&](int column, const Accumulate<T>(&sum)[items]) {
#pragma unroll
                      for (int u = 0; u < items; ++u) p.partial_row(bucket, cut.y)[column + u] = sum[u];
                    });
  }
}

/// A block takes a bucket; its warps take turns at the parts, and what they found is added in their order.
template <class T, class Id>
__global__ void __launch_bounds__(threads) join_parts(CrowdedSums<T, Id> p) {
  using A = Accumulate<T>;
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
  const auto blocks = static_cast<unsigned>(cuda.multiprocessors) * blocks_of_multiprocessor;
  if (p.sequences.longest <= most_alone) {
    sum_buckets<items, false><<<blocks, threads, 0, cuda.stream>>>(p, lanes);
    return check_launch("sum_crowded_rows: sum_buckets");
  }
  sum_buckets<items, true><<<blocks, threads, 0, cuda.stream>>>(p, lanes);
  check_launch("sum_crowded_rows: sum_buckets");
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
                     cuts = sequences.longest <= most_alone
                                ? 0
                                : lists * (sequences.tokens / sum_part_rows + 1);  // of all lists, at most
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
