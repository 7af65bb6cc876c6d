// Visits of partners whose rows pass through shared memory, bfloat16 on sm_90a only. A block owns 256 rows, a
// warp 16 of them, with their sums in registers; ranges of the partners' rows come by in stages. Each warp
// first sorts its rows' partners by range; then it takes 16 of a range at a time, whoever's they are: products
// of all 16 x 16 rows on tensor cores, of which only (partner, its owner) are kept; these weights times the
// partners' rows are the sums. Deterministic: the order of additions depends on the lists alone. Cost: two rows
// of shared memory an entry, and a pass over the sequence for each 256 rows. Weights of single pairs are
// rounded to bfloat16.
#include "kernels/cuda/attention_hopper_tiles.h"
#include "kernels/cuda/collision_visits_resident.cuh"

namespace tern::kernels {
namespace {

using namespace resident;

using Memory = BlockMemory<2>;
struct PartnerMaps {
  CUtensorMap of[2];  ///< y, x
};

/// A warp's rows and sums, as fragments.
template <bool has_dy>
struct WarpVisits {
  static constexpr int depth = width / 16, columns = width / 8;
  std::uint32_t own_y[depth][4];
  float dx[columns][4] = {}, dy[columns][4] = {};

  __device__ __forceinline__ void step(std::uint32_t slots, std::uint32_t y_tile, std::uint32_t x_tile) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
    const std::uint32_t row[2] = {slots & row_mask, slots >> 16 & row_mask};
    std::uint32_t y[2][2 * depth];
#pragma unroll
    for (int k = 0; k < depth; k += 2) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
        load_matrices(reinterpret_cast<std::uint32_t(&)[4]>(y[tile][2 * k]),
                      y_tile + place(row[tile], 2 * k + lane / 8));
    }
    float gain[2][4] = {};
#pragma unroll
    for (int k = 0; k < depth; ++k) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
        add_product(gain[tile], own_y[k], y[tile][2 * k], y[tile][2 * k + 1]);
    }
    const std::uint32_t firsts = __shfl_sync(0xFFFFFFFFu, slots, 2 * t),
                        seconds = __shfl_sync(0xFFFFFFFFu, slots, 2 * t + 1);
    std::uint32_t weights[4], ones[4];
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const std::uint32_t first = owner_of(firsts, tile), second = owner_of(seconds, tile);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t own = g + 8 * half;
        weights[2 * tile + half] = pack_pair(first == own ? gain[tile][2 * half] : 0.0f,
                                             second == own ? gain[tile][2 * half + 1] : 0.0f);
        constexpr std::uint32_t one = 0x3F80;  // bfloat16
        if constexpr (has_dy)
          ones[2 * tile + half] = (first == own ? one : 0) | (second == own ? one << 16 : 0);
      }
    }
    const std::uint32_t depth_row = lane / 8 % 2 == 0 ? row[0] : row[1];
#pragma unroll
    for (int c = 0; c < columns; c += 2) {
      const std::uint32_t offset = place(depth_row, c + lane / 16);
      std::uint32_t x[4];
      load_matrices_transposed(x, x_tile + offset);
      add_product(dx[c], weights, x[0], x[1]);
      add_product(dx[c + 1], weights, x[2], x[3]);
      if constexpr (has_dy) {
        load_matrices_transposed(x, y_tile + offset);
        add_product(dy[c], ones, x[0], x[1]);
        add_product(dy[c + 1], ones, x[2], x[3]);
      }
    }
  }

  /// Visits the partners of one stage.
  __device__ __forceinline__ void run(StepSlots slots, std::uint32_t y_tile, std::uint32_t x_tile) {
    for (int i = 0; i < slots.steps; ++i) step(slots.take(), y_tile, x_tile);
  }
};

/// Own rows: the 256 of tile blockIdx.x in sequence blockIdx.y of head blockIdx.z.
template <bool has_dy, class Id>
__global__ void __launch_bounds__(threads, 1)
    visit_resident(const __grid_constant__ PartnerMaps maps,
                   const __grid_constant__ PartnerVisits<bfloat16, Id> p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char shared[];
  Memory& memory = *reinterpret_cast<Memory*>(shared);
  const int head = static_cast<int>(blockIdx.z), warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const SequenceRange range = sequence_range(p.sequences, static_cast<int>(blockIdx.y));
  if (range.index == p.sequences.count) {
    clear_rows(p.dx, range, head);
    if constexpr (has_dy) clear_rows(p.dy, range, head);
    return;
  }
  const int start = static_cast<int>(blockIdx.x) * own_rows;
  if (start >= range.length) return;
  const int first_row = start + warp * tile_rows, rows = min(tile_rows, range.length - first_row);
  const WarpRows own{head, range.begin + first_row, rows, rows > 0 ? (1u << rows) - 1 : 0};  // may be none
  const int ranges = (range.length + Memory::rows - 1) / Memory::rows;
  const bool copies_early = ranges < Memory::ranges_beside_stage;
  if (threadIdx.x == 0) memory.prepare();
  const auto copy_stage = [&](int stage) { memory.copy(stage, maps.of, range, head); };
  WarpVisits<has_dy> visits;
  const PartnerPlan<Memory::rows, Id> plan(p.collisions.lists, own);
  WarpMemory& mine = memory.warp[warp];
  std::uint32_t parity[2] = {0, 0};
  for (int first = 0; __syncthreads_or(first < plan.total); first += WarpMemory::capacity) {
    if (threadIdx.x == 0 && copies_early) copy_stage(0);
    plan.sort(mine, memory.counters(warp, copies_early), ranges, first);
    hopper::fence_shared_writes();
    load_fragments<width>(p.own_y, own, visits.own_y);
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
      visits.run({mine.list + begin, end - begin, range.length - stage * Memory::rows},
                 shared_address(memory.stage[buffer].row[0]), shared_address(memory.stage[buffer].row[1]));
      __syncwarp();
      if (threadIdx.x % warp_lanes == 0 && memory.finish(buffer)) copy_stage(stage + 2);
    }
  }
  store_rows<has_dy>(p, visits.dx, visits.dy, own);
#endif
}

template <bool has_dy, class Id>
void launch(Cuda& cuda, const PartnerVisits<bfloat16, Id>& p) {
  const auto kernel = visit_resident<has_dy, Id>;
  constexpr int bytes = sizeof(Memory);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "collision_gradients: shared memory");
  const PartnerMaps maps{{hopper::tensor_map(p.partner_y), hopper::tensor_map(p.partner_x)}};
  const dim3 grid(static_cast<unsigned>((p.sequences.longest + own_rows - 1) / own_rows),
                  static_cast<unsigned>(p.sequences.count + 1), static_cast<unsigned>(p.dx.heads));
  kernel<<<grid, threads, bytes, cuda.stream>>>(maps, p);
  check_launch("collision_gradients: visit_resident");
}

bool suit_copy_engine(const Cuda& cuda, Heads<const bfloat16> x, Heads<const bfloat16> y) {
  return hopper::serves(cuda, {x, y});
}

}  // namespace

template <class Id>
bool fits_resident_partners(const Cuda& cuda, const PartnerVisits<bfloat16, Id>& p) {
  constexpr int rows_for_each_hash = 128;  // measured: with more, a row has too few partners in a stage
  constexpr int most_sequences = 65534;    // of a grid's second dimension
  const std::int64_t longest = p.sequences.longest;
  if (p.is_exact || longest == 0 || p.sequences.count > most_sequences || p.dx.width != width) return false;
  if (longest > Memory::longest || longest > rows_for_each_hash * p.collisions.hashes) return false;
  return p.packed && suit_copy_engine(cuda, p.partner_x, p.partner_y);
}

template <class Id>
void visit_partners_resident(Cuda& cuda, const PartnerVisits<bfloat16, Id>& p) {
  ensure(p.dx.width == resident::width, "visit_partners_resident: {} columns", p.dx.width);
  return p.dy.data != nullptr ? launch<true>(cuda, p) : launch<false>(cuda, p);
}

#define TERN_INSTANTIATE(Id)                                                                 \
  template bool fits_resident_partners<Id>(const Cuda&, const PartnerVisits<bfloat16, Id>&); \
  template void visit_partners_resident<Id>(Cuda&, const PartnerVisits<bfloat16, Id>&);
TERN_INSTANTIATE(std::uint16_t)
TERN_INSTANTIATE(std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
