// Pairs of crowded buckets: a block takes a whole bucket. Under the surrogate weight a bucket with more rows
// than columns goes through its moment M = sum_j x_j y_j^T: own_i += M y_i. Else blocks of pairs are formed;
// under the exact weight a bucket that would take more than linear time meets windows (hashing.h). Rows collide
// in several hashes, so their sums are atomic additions; where these must be deterministic, hashes go one after
// the other. Cost of a bucket of a own rows and b partners: min(a b, (a + b) head_width) rows.
#include "kernels/cuda/collision_tiles.cuh"

namespace tern::kernels {
namespace {

using namespace crowded;

template <class T, class Code, bool is_exact>
__global__ void __launch_bounds__(threads, sizeof(Accumulate<T>) == 4 ? 4 : 1)
    run_buckets(GradientSide<T, Code> p, int segment) {
  extern __shared__ __align__(16) unsigned char shared[];
  const std::uint32_t count = p.crowded.count[segment];
  for (std::uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
    const CrowdedBucket bucket = p.crowded.buckets[segment * p.crowded.capacity + i];
    const CrowdedTask<T, Code, is_exact> task{p, bucket, sequence_range(p.sequences, bucket.sequence),
                                              bucket.list / p.hashes,
                                              *reinterpret_cast<SharedTiles<Accumulate<T>>*>(shared)};
    task.run();
    __syncthreads();
  }
}

/// Lists the crowded buckets: a thread looks at one place of the sorted order, where a bucket may start.
template <class T, class Code>
__global__ void find_buckets(GradientSide<T, Code> p, std::int64_t lists) {
  const std::int64_t tokens = p.out.tokens;
  const int end = p.sequences.offsets[p.sequences.count];
  for (std::int64_t i = thread_index(); i < lists * tokens; i += grid_threads()) {
    const std::int64_t list = i / tokens;
    const auto token = static_cast<int>(i % tokens);
    if (token >= end) continue;
    const SequenceRange range = find_sequence(p.sequences, token);
    const SortedRows<Code> own_rows = rows_of(p.own, list, range);
    const int place = token - range.begin;
    const std::uint32_t code = own_rows.codes[own_rows.order[place]];
    if (place > 0 && own_rows.codes[own_rows.order[place - 1]] == code) continue;
    const Bucket partners = rows_of(p.partner, list, range).find(code);
    if (partners.count <= CrowdedBuckets::few) continue;
    const Bucket own = own_rows.find(code);
    if (!CrowdedBuckets::is_crowded(own.count, partners.count)) continue;
    const int segment = p.crowded.segments == 1 ? 0 : static_cast<int>(list % p.hashes);
    const std::uint32_t slot = atomicAdd(&p.crowded.count[segment], 1u);
    p.crowded.count[p.crowded.segments] = 1;
    p.crowded.buckets[segment * p.crowded.capacity + slot] = {static_cast<std::int32_t>(list),
                                                              range.index,
                                                              code,
                                                              own.first,
                                                              own.count,
                                                              partners.first,
                                                              partners.count};
  }
}

template <class T, class Code>
__global__ void clear_sums(GradientSide<T, Code> p) {
  if (p.crowded.count[p.crowded.segments] == 0) return;
  const std::int64_t size = p.out.tokens * p.out.heads * p.out.width;
  for (std::int64_t i = thread_index(); i < size; i += grid_threads()) p.sums[i] = Accumulate<T>{};
}

template <bool is_exact, class T, class Code>
void launch_buckets(Cuda& cuda, const GradientSide<T, Code>& side) {
  constexpr int bytes = sizeof(SharedTiles<Accumulate<T>>), blocks_per_multiprocessor = 4;
  const auto kernel = run_buckets<T, Code, is_exact>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "collision_gradient: shared memory");
  const auto blocks = static_cast<unsigned>(cuda.multiprocessors * blocks_per_multiprocessor);
  for (int segment = 0; segment < side.crowded.segments; ++segment) {
    kernel<<<blocks, threads, bytes, cuda.stream>>>(side, segment);
    check_launch("collision_gradient: run_buckets");
  }
}

}  // namespace

template <class T, class Code>
void add_crowded_buckets(Cuda& cuda, const GradientSide<T, Code>& side) {
  constexpr int block = 256;
  const auto count_bytes = static_cast<std::size_t>(side.crowded.segments + 1) * sizeof(std::uint32_t);
  check_cuda(cudaMemsetAsync(side.crowded.count, 0, count_bytes, cuda.stream), "collision_gradient: clear");
  const std::int64_t lists = static_cast<std::int64_t>(side.out.heads) * side.hashes;
  find_buckets<<<grid_for(cuda, lists * side.out.tokens, block), block, 0, cuda.stream>>>(side, lists);
  check_launch("collision_gradient: find_buckets");
  const std::int64_t size = side.out.tokens * side.out.heads * side.out.width;
  clear_sums<<<grid_for(cuda, size, block), block, 0, cuda.stream>>>(side);
  check_launch("collision_gradient: clear_sums");
  if (side.is_exact)
    launch_buckets<true>(cuda, side);
  else
    launch_buckets<false>(cuda, side);
}

#define TERN_INSTANTIATE(T, Code) \
  template void add_crowded_buckets<T, Code>(Cuda&, const GradientSide<T, Code>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
