// Visits of all partners of a sequence, bfloat16 on sm_90a: two warpgroups keep 64 rows each while tiles of 64
// partners pass by; a third one counts, in bytes of shared memory, the hashes in which the rows collide with
// the chunk of partners that comes next (collision_counts.cuh). Products and rounding are those of
// collision_visits_counted.cu. Deterministic.
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/collision_visits_counted.cuh"

namespace tern::kernels {
namespace {

using namespace hopper;

constexpr int own_rows = counted_own_rows, groups = own_rows / box_rows,
              multipliers = groups * warpgroup_threads;
constexpr int partner_rows = 64, stages = 4, counted = 512, buffers = 2;
/// Barriers beside the block's: of those who multiply, and of those who count.
constexpr int multipliers_barrier = 1, counters_barrier = 2;
/// Threads that count: as many as the registers of those who multiply allow.
constexpr int counters(int width, bool has_dy) {
  return width == 64 && has_dy ? warpgroup_threads : 2 * warpgroup_threads;
}
constexpr int threads(int width, bool has_dy) { return multipliers + counters(width, has_dy); }

struct CountedMaps {
  CUtensorMap own_y, partner_x, partner_y;
};

template <int width, bool has_dy>
struct CountedMemory {
  using Counts = CountTile<own_rows, counted, counters(width, has_dy), counters_barrier>;
  std::byte own_y[Tile<width>::bytes(own_rows)];
  std::byte x[stages][Tile<width>::bytes(partner_rows)], y[stages][Tile<width>::bytes(partner_rows)];
  unsigned char counts[buffers][Counts::counts_bytes], scratch[Counts::scratch_bytes];
  std::uint64_t own_full, full[stages], empty[stages], counts_full[buffers], counts_empty[buffers];

  /// The scratch is that of whoever counts last: nobody reads marks here.
  __device__ __forceinline__ Counts counts_of(int buffer) { return {counts[buffer], scratch}; }
};

/// Fills one buffer of counts after the other.
template <int width, bool has_dy>
__device__ __forceinline__ void count_chunks(const CountedVisits& p, const WorkItem& item, int place_bits,
                                             CountedMemory<width, has_dy>& memory) {
  const AttentionPlace place = place_of(item, static_cast<int>(blockIdx.y));
  const CountSource source = count_source(p, place_bits);
#pragma unroll 1
  for (int chunk = 0; chunk * counted < item.length; ++chunk) {
    const int buffer = chunk % buffers;
    if (chunk >= buffers) wait(shared_address(&memory.counts_empty[buffer]), (chunk / buffers - 1) & 1);
    memory.counts_of(buffer).build(source, place, static_cast<std::uint32_t>(chunk * counted));
    __syncwarp();
    if (is_first_lane()) arrive(shared_address(&memory.counts_full[buffer]));
  }
}

/// One thread: a tile of partners.
template <int width, bool has_dy>
__device__ __forceinline__ void load_partners(const CountedMaps& maps, const WorkItem& item,
                                              CountedMemory<width, has_dy>& memory, int tile) {
  const int stage = tile % stages, token = item.first + tile * partner_rows,
            head = static_cast<int>(blockIdx.y);
  const std::uint32_t barrier = shared_address(&memory.full[stage]);
  arrive_expecting(barrier, 2 * Tile<width>::bytes(partner_rows));
  Tile<width>::load(shared_address(memory.y[stage]), partner_rows, maps.partner_y, barrier, head, token);
  Tile<width>::load(shared_address(memory.x[stage]), partner_rows, maps.partner_x, barrier, head, token);
}

/// Completes and writes a warpgroup's 64 rows from `start` of the sequence on.
template <int width, bool has_dy>
__device__ __forceinline__ void finish(const CountedVisits& p, const WorkItem& item, int start,
                                       float (&dx)[width / 2], float (&dy)[width / 2]) {
  const int head = static_cast<int>(blockIdx.y), row = start + fragment().row;
  const std::int64_t token = std::int64_t{item.first} + start;
  if (has_crowded(p.collisions.crowded)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= item.length) continue;
      add_crowded_weights(p, item.first + row + 8 * half, head, half, dx);
      if constexpr (has_dy) add_crowded_values(p, item.first, item.first + row + 8 * half, head, half, dy);
    }
  }
  const Heads<const bfloat16> unit = p.norm.data != nullptr ? p.own_x : Heads<const bfloat16>{};
  store_gradient<width>(p.dx, {unit, p.norm}, token, head, item.length - start, dx, p.scale * weight_unit);
  if constexpr (has_dy)
    store_rows<width>(p.dy, token, head, item.length - start, dy, p.value_scale, p.value_scale);
}

template <int width, bool has_dy>
__device__ __forceinline__ void pass_partners(const CountedMaps& maps, const CountedVisits& p,
                                              const WorkItem& item, CountedMemory<width, has_dy>& memory) {
  using Layout = Tile<width>;
  constexpr std::uint32_t tile_bytes = Layout::bytes(partner_rows);
  const int head = static_cast<int>(blockIdx.y), group = warpgroup_index();
  const int tiles = (item.length + partner_rows - 1) / partner_rows;
  __builtin_assume(tiles > 0);
  const std::uint32_t own_y = shared_address(memory.own_y), x = shared_address(memory.x),
                      y = shared_address(memory.y), full = shared_address(memory.full),
                      empty = shared_address(memory.empty);
  if (threadIdx.x == 0) {
    const std::uint32_t barrier = shared_address(&memory.own_full);
    arrive_expecting(barrier, Layout::bytes(own_rows));
    Layout::load(own_y, own_rows, maps.own_y, barrier, head, item.first + item.start);
    for (int tile = 0; tile < min(tiles, stages); ++tile) load_partners(maps, item, memory, tile);
  }
  const int row = group * box_rows + fragment().row;
  float dx[width / 2], dy[width / 2];
  wait(shared_address(&memory.own_full), 0);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % stages, column = tile * partner_rows % counted,
              chunk = tile * partner_rows / counted, buffer = chunk % buffers;
    const std::uint32_t place = tile_bytes * stage;
    wait(full + 8 * stage, tile / stages & 1);
    const int valid = item.length - tile * partner_rows;
    if (valid < partner_rows) {
      Layout::clear_tail(memory.x[stage], partner_rows, valid, multipliers);
      Layout::clear_tail(memory.y[stage], partner_rows, valid, multipliers);
      fence_shared_writes();
      named_barrier(multipliers_barrier, multipliers);
    }
    float gain[32];
    begin_products();
    multiply_along_width<width>(gain, own_y, own_rows, group * box_rows, y + place);
    if (column == 0) wait(shared_address(&memory.counts_full[buffer]), chunk / buffers & 1);
    const auto counts = memory.counts_of(buffer);
    const uint4 low = counts.load(row, column / partner_rows),
                high = counts.load(row + 8, column / partner_rows);
    if (column + partner_rows == counted) {
      __syncwarp();
      if (is_first_lane()) arrive(shared_address(&memory.counts_empty[buffer]));
    }
    wait_products<1>();  // those of the tile before
    if (tile > 0 && is_first_lane()) arrive(empty + 8 * ((tile - 1) % stages));
    if (threadIdx.x == 0 && tile > 1 && tile - 2 + stages < tiles) {
      wait(empty + 8 * ((tile - 2) % stages), (tile - 2) / stages & 1);
      load_partners(maps, item, memory, tile - 2 + stages);
    }
    std::uint32_t shares[16], weights[16];
    if constexpr (has_dy) {
#pragma unroll
      for (int step = 0; step < 4; ++step)
        count_operand(word_of(low, step), word_of(high, step), shares + 4 * step);
      begin_products();
      multiply_along_rows<width>(dy, shares, y + place, tile > 0);
      wait_products<1>();
    } else {
      wait_products<0>();
    }
    pin(gain);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      weigh(gain + 8 * step, word_of(low, step), word_of(high, step), weights + 4 * step);
    begin_products();
    multiply_along_rows<width>(dx, weights, x + place, tile > 0);
  }
  wait_products<0>();
  pin(dx);
  if constexpr (has_dy) pin(dy);
  finish<width, has_dy>(p, item, item.start + group * box_rows, dx, dy);
}

/// Rows: those of item blockIdx.x, of head blockIdx.y.
template <int width, bool has_dy>
__global__ void __launch_bounds__(threads(width, has_dy), 1)
    visit_counted(const __grid_constant__ CountedMaps maps, const __grid_constant__ CountedVisits p,
                  const WorkItem* items, int place_bits) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) std::byte shared[];
  auto& memory = *reinterpret_cast<CountedMemory<width, has_dy>*>(shared);
  const WorkItem item = items[blockIdx.x];
  if (item.length == 0) return;
  if (item.sequence < 0) {
    clear_rows<width>(p.dx, item, own_rows, static_cast<int>(blockIdx.y));
    if constexpr (has_dy) clear_rows<width>(p.dy, item, own_rows, static_cast<int>(blockIdx.y));
    return;
  }
  if (threadIdx.x == 0) {
    init_barrier(shared_address(&memory.own_full), 1);
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(shared_address(&memory.full[stage]), 1);
      init_barrier(shared_address(&memory.empty[stage]), multipliers / warp_lanes);
    }
    for (int buffer = 0; buffer < buffers; ++buffer) {
      init_barrier(shared_address(&memory.counts_full[buffer]), counters(width, has_dy) / warp_lanes);
      init_barrier(shared_address(&memory.counts_empty[buffer]), multipliers / warp_lanes);
    }
    publish_barriers();
  }
  __syncthreads();
  if (warpgroup_index() >= groups)
    count_chunks<width, has_dy>(p, item, place_bits, memory);
  else
    pass_partners<width, has_dy>(maps, p, item, memory);
#endif
}

template <int width, bool has_dy>
void launch(Cuda& cuda, const CountedVisits& p, const TilePlan& plan) {
  const CountedMaps maps{tensor_map(p.own_y), tensor_map(p.partner_x), tensor_map(p.partner_y)};
  const auto kernel = visit_counted<width, has_dy>;
  constexpr int bytes = sizeof(CountedMemory<width, has_dy>);
  static_assert(bytes <= 227 * 1024);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "collision_gradients: shared memory");
  const dim3 grid(static_cast<unsigned>(plan.count), static_cast<unsigned>(p.dx.heads));
  kernel<<<grid, threads(width, has_dy), bytes, cuda.stream>>>(maps, p, plan.items.data(),
                                                               CountWord::place_bits(p.sequences.longest));
  check_launch("collision_gradients: visit_counted");
}

template <int width>
void launch(Cuda& cuda, const CountedVisits& p, const TilePlan& plan) {
  return p.dy.data != nullptr ? launch<width, true>(cuda, p, plan) : launch<width, false>(cuda, p, plan);
}

}  // namespace

bool visit_counted_hopper(Cuda& cuda, const CountedVisits& p, const hopper::TilePlan& plan) {
  const Heads<const bfloat16> dx = read_only(p.dx), dy = p.dy.data != nullptr ? read_only(p.dy) : dx;
  if (!hopper::serves(cuda, {p.own_x, p.own_y, p.partner_x, p.partner_y, dx, dy})) return false;
  if (p.dx.width == 32)
    launch<32>(cuda, p, plan);
  else
    launch<64>(cuda, p, plan);
  return true;
}

}  // namespace tern::kernels
