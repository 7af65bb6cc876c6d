// Pairs of crowded buckets with plain arithmetic: a block takes a whole bucket; bfloat16 rows go through
// tensor cores (collision_products.cu). Under the surrogate weight a bucket with more rows than columns goes
// through its moment M = sum_j x_j y_j^T: own_i += M y_i. Else blocks of pairs are formed; under the exact
// weight a bucket that would take more than linear time meets windows (hashing.h). Rows collide in several
// hashes, so their sums are atomic additions; where these must be deterministic, hashes go one after the other.
// Cost of a bucket of a own rows and b partners: min(a b, (a + b) head_width) rows.
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/collision_products.h"
#include "kernels/cuda/collision_tiles.cuh"
#include "kernels/cuda/heads.cuh"

namespace tern::kernels {
namespace {

using namespace crowded;

template <class T, class Id, bool is_exact>
__global__ void __launch_bounds__(threads, sizeof(Accumulate<T>) == 4 ? 4 : 1)
    run_buckets(CrowdedPairs<T, Id> p, bool packed, int segment) {
  extern __shared__ __align__(16) unsigned char shared[];
  const CrowdedBuckets& crowded = p.collisions.crowded;
  for (std::uint32_t i = blockIdx.x; i < crowded.count[segment]; i += gridDim.x) {
    const CrowdedBucket bucket = crowded.buckets[segment * crowded.capacity + i];
    const CrowdedTask<T, Id, is_exact> task{p,
                                            packed,
                                            bucket,
                                            sequence_range(p.sequences, bucket.sequence),
                                            bucket.list / p.collisions.hashes,
                                            *reinterpret_cast<SharedTiles<Accumulate<T>>*>(shared)};
    task.run();
    __syncthreads();
  }
}

template <bool is_exact, class T, class Id>
void launch_buckets(Cuda& cuda, const CrowdedPairs<T, Id>& work, bool packed) {
  constexpr int bytes = sizeof(SharedTiles<Accumulate<T>>), blocks_per_multiprocessor = 4;
  const auto kernel = run_buckets<T, Id, is_exact>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "add_crowded_pairs: shared memory");
  const auto blocks = static_cast<unsigned>(cuda.multiprocessors * blocks_per_multiprocessor);
  for (int segment = 0; segment < work.collisions.crowded.segments; ++segment) {
    kernel<<<blocks, threads, bytes, cuda.stream>>>(work, packed, segment);
    check_launch("add_crowded_pairs: run_buckets");
  }
}

}  // namespace

template <class T, class Id>
void add_crowded_pairs(Cuda& cuda, const CrowdedPairs<T, Id>& work) {
  const std::int64_t rows = work.own_x.tokens * work.own_x.heads;
  if (rows == 0 || work.own_x.width == 0) return;
  const bool packed = rows_are_packed(work.own_x) && rows_are_packed(work.own_y) &&
                      rows_are_packed(work.partner_x) && rows_are_packed(work.partner_y);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (packed && work.own_x.width <= widest_products) return add_crowded_products(cuda, work);
  }
  if (work.is_exact)
    launch_buckets<true>(cuda, work, packed);
  else
    launch_buckets<false>(cuda, work, packed);
}

#define TERN_INSTANTIATE(T, Id) template void add_crowded_pairs<T, Id>(Cuda&, const CrowdedPairs<T, Id>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
