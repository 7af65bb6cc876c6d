// Pairs of crowded buckets on tensor cores. A first kernel works off light buckets, a warp each, and cuts the
// others into pieces for a second one: under the surrogate weight those with many rows on both sides go
// through their moments (collision_moments.cuh), a block each, the longest ones cut into parts that several
// blocks build and then apply; all others in pieces of pairs (collision_pairs.cuh), a warp each. Rows collide
// in several hashes, so their sums are atomic additions; where these must be deterministic, hashes go one after
// the other and long buckets are not cut. Cost of a bucket of a own rows and b partners: min(a b, (a + b)
// head_width) rows.
#include "kernels/cuda/collision_moments.cuh"
#include "kernels/cuda/collision_pieces.cuh"
#include "kernels/cuda/collision_products.h"

namespace tern::kernels {
namespace {

using namespace crowded;

constexpr int threads = 128;

/// Blocks on a multiprocessor: as many as registers allow.
constexpr int blocks_of_width(int width) { return width > 64 ? 2 : 3; }
template <bool is_exact>
constexpr int light_blocks(int width) {
  return width > 64 ? 2 : (width > 32 ? 4 : 5) - (is_exact ? 1 : 0);
}

/// Calls visit(number) for numbers below `count`, each in one block.
template <class Visit>
__device__ __forceinline__ void take_turns(std::uint32_t* taken, std::uint32_t count, const Visit& visit) {
  __shared__ std::uint32_t number;
  if (count == 0) return;
  std::uint32_t next = threadIdx.x == 0 ? atomicAdd(taken, 1u) : 0;
  for (;;) {
    __syncthreads();
    if (threadIdx.x == 0) number = next;
    __syncthreads();
    const std::uint32_t mine = number;
    if (mine >= count) return;
    if (threadIdx.x == 0) next = atomicAdd(taken, 1u);
    visit(mine);
  }
}

template <int width, class Id>
__device__ MomentProducts<width, Id> moment_products(const ProductWork<Id>& w, MomentTiles<width>& tiles,
                                                     const CrowdedBucket& bucket) {
  return {w.p, tiles, w.p.sequences.offsets[bucket.sequence], bucket.list / w.p.collisions.hashes,
          w.plan.in_order};
}

template <int width, class Id>
__device__ void run_moments(const ProductWork<Id>& w, MomentTiles<width>& tiles) {
  using Shape = MomentShape<width>;
  take_turns(&w.counts().moments_taken, w.counts().moments, [&](std::uint32_t number) {
    const CrowdedBucket bucket = w.bucket(w.plan.moments[number]);
    const auto products = moment_products(w, tiles, bucket);
    for (int column = 0; column < w.p.own_x.width; column += Shape::block) {
      typename MomentProducts<width, Id>::Moment moment;
      products.run({partner_run(w.p, bucket, products.begin, 0, bucket.partner_count),
                    own_run(w.p, bucket, products.begin, 0, bucket.own_count)},
                   column, moment);
    }
  });
}

template <int width, class Id>
__device__ void build_long_moments(const ProductWork<Id>& w, MomentTiles<width>& tiles) {
  using Shape = MomentShape<width>;
  take_turns(&w.counts().builds_taken, w.counts().builds, [&](std::uint32_t number) {
    const LongPiece piece = w.plan.builds[number];
    const CrowdedBucket bucket = w.bucket(piece.bucket);
    const auto products = moment_products(w, tiles, bucket);
    const std::uint32_t first = piece.part * part_rows, count = min(part_rows, bucket.partner_count - first);
    for (int column = 0; column < w.p.own_x.width; column += Shape::block) {
      typename MomentProducts<width, Id>::Moment moment;
      products.run({partner_run(w.p, bucket, products.begin, first, count), {}}, column, moment);
      float* to = w.plan.long_moments + std::int64_t{piece.slot} * width * width + column;
      products.for_each(moment, [&](int y, int x, float left, float right) {
        atomicAdd(to + y * width + x, left);
        atomicAdd(to + y * width + x + 1, right);
      });
    }
  });
}

/// The calling warp's tiles.
template <class Tiles>
__device__ __forceinline__ Tiles& warp_share(unsigned char* shared) {
  return reinterpret_cast<Tiles*>(shared)[threadIdx.x / warp_lanes];
}

/// Works off light buckets; the first blocks list the pieces of the others.
template <int width, bool is_exact, class Id>
__global__ void __launch_bounds__(threads, light_blocks<is_exact>(width)) run_light(ProductWork<Id> w) {
  extern __shared__ __align__(16) unsigned char shared[];
  const unsigned planners = (gridDim.x + 3) / 4;
  if (blockIdx.x < planners)
    plan_pieces<width, PieceTiles<width, is_exact>::own_rows>(w, blockIdx.x, planners);
  else
    run_light_buckets(w, warp_share<LightTiles<width, is_exact>>(shared), blockIdx.x - planners,
                      gridDim.x - planners);
}

template <int width, bool is_exact, class Id>
__global__ void __launch_bounds__(threads, blocks_of_width(width)) run_pieces(ProductWork<Id> w) {
  extern __shared__ __align__(16) unsigned char shared[];
  if constexpr (!is_exact) {
    auto& tiles = *reinterpret_cast<MomentTiles<width>*>(shared);
    build_long_moments(w, tiles);
    // half of the blocks begin with the other kind of work, so that waiting and multiplying overlap
#pragma unroll 1
    for (unsigned turn = 0; turn < 2; ++turn) {
      if ((blockIdx.x + turn) % 2 == 0)
        run_moments(w, tiles);
      else
        run_pairs(w, warp_share<PieceTiles<width, false>>(shared));
    }
  } else {
    run_pairs(w, warp_share<PieceTiles<width, true>>(shared));
  }
}

template <int width, class Id>
__global__ void __launch_bounds__(threads) apply_long_moments(ProductWork<Id> w) {
  extern __shared__ __align__(16) unsigned char shared[];
  using Shape = MomentShape<width>;
  auto& tiles = *reinterpret_cast<MomentTiles<width>*>(shared);
  take_turns(&w.counts().applies_taken, w.counts().applies, [&](std::uint32_t number) {
    const LongPiece piece = w.plan.applies[number];
    const CrowdedBucket bucket = w.bucket(piece.bucket);
    const auto products = moment_products(w, tiles, bucket);
    const std::uint32_t first = piece.part * part_rows, count = min(part_rows, bucket.own_count - first);
    for (int column = 0; column < w.p.own_x.width; column += Shape::block) {
      const float* from = w.plan.long_moments + std::int64_t{piece.slot} * width * width + column;
      for (int i = 2 * static_cast<int>(threadIdx.x); i < width * Shape::block; i += 2 * threads) {
        const int y = i / Shape::block, x = i % Shape::block;
        products.keep(y, x, from[y * width + x], from[y * width + x + 1]);
      }
      typename MomentProducts<width, Id>::Moment unused;
      products.run({{}, own_run(w.p, bucket, products.begin, first, count)}, column, unused);
    }
  });
}

template <int width, bool is_exact, class Id>
void launch_segment(Cuda& cuda, const ProductWork<Id>& w, bool has_long) {
  constexpr int warps = threads / warp_lanes, bytes = sizeof(MomentTiles<width>),
                light_bytes = warps * sizeof(LightTiles<width, is_exact>),
                piece_bytes = warps * sizeof(PieceTiles<width, is_exact>),
                run_bytes = is_exact ? piece_bytes : std::max(piece_bytes, bytes);
  const auto light = run_light<width, is_exact, Id>;
  check_cuda(cudaFuncSetAttribute(light, cudaFuncAttributeMaxDynamicSharedMemorySize, light_bytes),
             "add_crowded_pairs: shared memory");
  light<<<static_cast<unsigned>(cuda.multiprocessors * light_blocks<is_exact>(width)), threads, light_bytes,
          cuda.stream>>>(w);
  check_launch("add_crowded_pairs: run_light");
  const auto run = run_pieces<width, is_exact, Id>;
  check_cuda(cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, run_bytes),
             "add_crowded_pairs: shared memory");
  const auto blocks = static_cast<unsigned>(cuda.multiprocessors * blocks_of_width(width));
  run<<<blocks, threads, run_bytes, cuda.stream>>>(w);
  check_launch("add_crowded_pairs: run_pieces");
  if (!has_long) return;
  const auto apply = apply_long_moments<width, Id>;
  check_cuda(cudaFuncSetAttribute(apply, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "add_crowded_pairs: shared memory");
  apply<<<blocks, threads, bytes, cuda.stream>>>(w);
  check_launch("add_crowded_pairs: apply_long_moments");
}

template <int width, class Id>
void run_products(Cuda& cuda, const CrowdedPairs<bfloat16, Id>& work) {
  const CrowdedBuckets& crowded = work.collisions.crowded;
  const std::int64_t lists = static_cast<std::int64_t>(work.own_x.heads) * work.collisions.hashes;
  const bool in_order = cuda.options.deterministic && crowded.segments == work.collisions.hashes;
  constexpr std::uint32_t dense = width > 64 ? width : 64;
  const PlanBounds bounds = plan_bounds(work.sequences, lists / (in_order ? work.collisions.hashes : 1), dense,
                                        work.is_exact, in_order, std::int64_t{width} * width * 4);
  const Scratch<Piece> pairs(cuda, bounds.pairs);
  const Scratch<std::uint32_t> moments(cuda, bounds.moments);
  const Scratch<LongPiece> builds(cuda, bounds.parts), applies(cuda, bounds.parts);
  const Scratch<float> long_moments(cuda, bounds.long_buckets * width * width);
  static_assert(sizeof(PieceCounts) == CrowdedBuckets::of_segment * sizeof(std::uint32_t));
  const Plan plan{reinterpret_cast<PieceCounts*>(crowded.counters),
                  pairs.data(),
                  moments.data(),
                  builds.data(),
                  applies.data(),
                  long_moments.data(),
                  bounds.short_rows,
                  dense,
                  in_order};
  for (int segment = 0; segment < crowded.segments; ++segment) {
    const ProductWork<Id> w{work, plan, segment};
    if (work.is_exact)
      launch_segment<width, true>(cuda, w, false);
    else
      launch_segment<width, false>(cuda, w, bounds.long_buckets > 0);
  }
}

}  // namespace

template <class Id>
void add_crowded_products(Cuda& cuda, const CrowdedPairs<bfloat16, Id>& work) {
  if (work.own_x.width <= 32) return run_products<32>(cuda, work);
  if (work.own_x.width <= 64) return run_products<64>(cuda, work);
  run_products<widest_products>(cuda, work);
}

#define TERN_INSTANTIATE(Id) template void add_crowded_products<Id>(Cuda&, const CrowdedPairs<bfloat16, Id>&);
TERN_INSTANTIATE(std::uint16_t)
TERN_INSTANTIATE(std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
