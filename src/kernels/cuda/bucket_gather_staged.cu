// Sums of listed rows that pass through shared memory in stages, bfloat16 of 64 columns on sm_90a only, for
// sequences that do not fit as a whole. A block owns 256 rows, a warp 16 of them, with their sums in registers;
// partners are sorted and taken as in collision_visits_resident.cu, with ones in the place of weights.
// Deterministic: the order of additions depends on the lists alone. Cost: a row of shared memory an entry, and
// a pass over the sequence for each 256 rows.
#include "kernels/cuda/attention_hopper_tiles.h"
#include "kernels/cuda/bucket_gather.h"
#include "kernels/cuda/collision_visits_resident.cuh"
#include "kernels/cuda/heads.cuh"

namespace tern::kernels {
namespace {

using namespace resident;

using Memory = BlockMemory<1>;
struct ValueMap {
  CUtensorMap of[1];
};

/// A warp's sums, as fragments.
struct WarpSums {
  static constexpr int columns = width / 8;
  float sum[columns][4] = {};

  __device__ __forceinline__ void step(std::uint32_t slots, std::uint32_t tile) {
    const std::uint32_t lane = threadIdx.x % warp_lanes, g = lane / 4, t = lane % 4;
    const std::uint32_t firsts = __shfl_sync(0xFFFFFFFFu, slots, 2 * t),
                        seconds = __shfl_sync(0xFFFFFFFFu, slots, 2 * t + 1);
    std::uint32_t ones[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      constexpr std::uint32_t one = 0x3F80;  // bfloat16
      const std::uint32_t own = g + 8 * (i % 2);
      ones[i] = (owner_of(firsts, i / 2) == own ? one : 0) | (owner_of(seconds, i / 2) == own ? one << 16 : 0);
    }
    const std::uint32_t at = tile + place((lane / 8 % 2 == 0 ? slots : slots >> 16) & row_mask, lane / 16);
#pragma unroll
    for (int c = 0; c < columns; c += 2) {
      std::uint32_t x[4];
      load_matrices_transposed(x, at ^ static_cast<std::uint32_t>(c << 4));
      add_product(sum[c], ones, x[0], x[1]);
      add_product(sum[c + 1], ones, x[2], x[3]);
    }
  }

  /// Adds the partners of one stage.
  __device__ __forceinline__ void run(StepSlots slots, std::uint32_t tile) {
#pragma unroll 2
    for (int i = 0; i < slots.steps; ++i) step(slots.take(), tile);
  }

  /// Adds the sums of crowded buckets, scales and writes the rows.
  template <class Id>
  __device__ __forceinline__ void store(const BucketGather<bfloat16, Id>& p, const WarpRows& own) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
      const bool is_row = row < own.count;
      if (is_row) add_summed_rows(p.lists, p.summed + own.head * p.summed_rows * width, sum, half, own);
      float scale = p.scale, square = 0;
#pragma unroll
      for (int c = 0; c < columns; ++c)
        square += sum[c][2 * half] * sum[c][2 * half] + sum[c][2 * half + 1] * sum[c][2 * half + 1];
      const float length = scale * sqrtf(warp_sum(square, 4));
      if (!is_row) continue;
      if (p.norm.data != nullptr) {
        scale /= fmaxf(length, static_cast<float>(smallest_norm));
        if (t == 0) *row_of(p.norm, own.first + row, own.head) = length;
      }
      bfloat16* to = row_of(p.out, own.first + row, own.head) + 2 * t;
#pragma unroll
      for (int c = 0; c < columns; ++c)
        *reinterpret_cast<std::uint32_t*>(to + 8 * c) =
            pack_pair(scale * sum[c][2 * half], scale * sum[c][2 * half + 1]);
    }
  }
};

/// Zeros for the rows of no sequence, and their lengths.
template <class Id>
__device__ __forceinline__ void clear(const BucketGather<bfloat16, Id>& p, const SequenceRange& range,
                                      int head) {
  clear_rows(p.out, range, head);
  if (p.norm.data == nullptr) return;
  for (int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x); i < range.length;
       i += static_cast<int>(gridDim.x) * threads)
    *row_of(p.norm, range.begin + i, head) = 0;
}

/// Own rows: the 256 of tile blockIdx.x in sequence blockIdx.y of head blockIdx.z.
template <class Id>
__global__ void __launch_bounds__(threads, 1)
    gather_staged_rows(const __grid_constant__ ValueMap map,
                       const __grid_constant__ BucketGather<bfloat16, Id> p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char shared[];
  Memory& memory = *reinterpret_cast<Memory*>(shared);
  const int head = static_cast<int>(blockIdx.z), warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const SequenceRange range = sequence_range(p.sequences, static_cast<int>(blockIdx.y));
  if (range.index == p.sequences.count) return clear(p, range, head);
  const int start = static_cast<int>(blockIdx.x) * own_rows;
  if (start >= range.length) return;
  const int first_row = start + warp * tile_rows, rows = min(tile_rows, range.length - first_row);
  const WarpRows own{head, range.begin + first_row, rows, rows > 0 ? (1u << rows) - 1 : 0};  // may be none
  const int ranges = (range.length + Memory::rows - 1) / Memory::rows;
  const bool copies_early = ranges < Memory::ranges_beside_stage;
  if (threadIdx.x == 0) memory.prepare();
  const auto copy_stage = [&](int stage) { memory.copy(stage, map.of, range, head); };
  WarpSums sums;
  const PartnerPlan<Memory::rows, Id> plan(p.lists, own);
  WarpMemory& mine = memory.warp[warp];
  std::uint32_t parity[2] = {0, 0};
  for (int first = 0; __syncthreads_or(first < plan.total); first += WarpMemory::capacity) {
    if (threadIdx.x == 0 && copies_early) copy_stage(0);
    plan.sort(mine, memory.counters(warp, copies_early), ranges, first);
    hopper::fence_shared_writes();
    __syncthreads();
    if (threadIdx.x == 0) {
      if (!copies_early) copy_stage(0);
      copy_stage(1);
    }
    for (int stage = 0; stage < ranges; ++stage) {
      const int buffer = stage % 2;
      hopper::wait(shared_address(&memory.full[buffer]), parity[buffer]);
      parity[buffer] ^= 1;
      const int begin = mine.offsets[stage], end = mine.offsets[stage + 1];
      sums.run({mine.list + begin, end - begin, range.length - stage * Memory::rows},
               shared_address(memory.stage[buffer].row[0]));
      __syncwarp();
      if (threadIdx.x % warp_lanes == 0 && memory.finish(buffer)) copy_stage(stage + 2);
    }
  }
  sums.store(p, own);
#endif
}

bool suits_copy_engine(const Cuda& cuda, Heads<const bfloat16> rows) { return hopper::serves(cuda, {rows}); }

}  // namespace

template <class Id>
bool fits_stages(const Cuda& cuda, const BucketGather<bfloat16, Id>& work) {
  constexpr int rows_for_each_hash = 256;  // with more, a row has too few partners in a stage
  constexpr int most_sequences = 65534;    // of a grid's second dimension
  const std::int64_t longest = work.sequences.longest;
  if (longest == 0 || work.sequences.count > most_sequences || work.out.width != width) return false;
  if (longest > Memory::longest || longest > rows_for_each_hash * work.hashes) return false;
  return rows_are_packed(work.out) && suits_copy_engine(cuda, work.value);
}

template <class Id>
void gather_staged(Cuda& cuda, const BucketGather<bfloat16, Id>& work) {
  ensure(work.out.width == width, "gather_staged: {} columns", work.out.width);
  const auto kernel = gather_staged_rows<Id>;
  constexpr int bytes = sizeof(Memory);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "bucket_sum: shared memory");
  const dim3 grid(static_cast<unsigned>((work.sequences.longest + own_rows - 1) / own_rows),
                  static_cast<unsigned>(work.sequences.count + 1), static_cast<unsigned>(work.out.heads));
  kernel<<<grid, threads, bytes, cuda.stream>>>(ValueMap{{hopper::tensor_map(work.value)}}, work);
  check_launch("bucket_sum: gather_staged");
}

#define TERN_INSTANTIATE(Id)                                                     \
  template bool fits_stages<Id>(const Cuda&, const BucketGather<bfloat16, Id>&); \
  template void gather_staged<Id>(Cuda&, const BucketGather<bfloat16, Id>&);
TERN_INSTANTIATE(std::uint16_t)
TERN_INSTANTIATE(std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
