// dq of exact attention on sm_90a: a warpgroup keeps 64 queries, tiles of 64 keys pass by; the weights are
// computed again. Deterministic: no additions in memory, no scratch; 6 heads x length^2 x width operations.
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper_backward.h"

namespace tern::kernels::hopper {

constexpr int key_rows = 64, stages = 4;

/// Scores become weights; keys from `valid` on have none.
__device__ __forceinline__ void weigh(float (&scores)[32], const float (&lse)[2], float scale, int column,
                                      int valid) {
#pragma unroll
  for (int i = 0; i < 32; ++i) scores[i] = exp2_approximate(fmaf(scores[i], scale, -lse[i >> 1 & 1]));
  if (valid >= key_rows) return;
#pragma unroll
  for (int i = 0; i < 32; ++i)
    if (i / 4 * 8 + column + (i & 1) >= valid) scores[i] = 0;
}

namespace {

template <int width>
struct QueryMemory {
  static constexpr int queries = backward_rows(width);
  std::byte q[Tile<width>::bytes(queries)], dout[Tile<width>::bytes(queries)];
  std::byte k[stages][Tile<width>::bytes(key_rows)], v[stages][Tile<width>::bytes(key_rows)];
  std::uint64_t queries_full, full[stages], empty[stages];
};

template <int width, Score score>
__device__ __forceinline__ void pass_keys(const BackwardMaps& maps, const BackwardTask& task,
                                          const WorkItem& item, QueryMemory<width>& memory) {
  using Layout = Tile<width>;
  constexpr int queries = backward_rows(width), threads = 2 * queries;
  constexpr std::uint32_t tile_bytes = Layout::bytes(key_rows);
  const int head = static_cast<int>(blockIdx.y), group = warpgroup_index();
  const int tiles = (item.length + key_rows - 1) / key_rows;
  __builtin_assume(tiles > 0);
  const std::uint32_t k = shared_address(memory.k), v = shared_address(memory.v), q = shared_address(memory.q),
                      dout = shared_address(memory.dout);
  const std::uint32_t full = shared_address(memory.full), empty = shared_address(memory.empty);
  const auto load_keys = [&](int tile, int stage) {
    const std::uint32_t barrier = full + 8 * stage;
    arrive_expecting(barrier, 2 * tile_bytes);
    Layout::load(k + tile_bytes * stage, key_rows, maps.k, barrier, head, item.first + tile * key_rows);
    Layout::load(v + tile_bytes * stage, key_rows, maps.v, barrier, head, item.first + tile * key_rows);
  };
  if (threadIdx.x == 0) {
    const std::uint32_t barrier = shared_address(&memory.queries_full);
    arrive_expecting(barrier, 2 * Layout::bytes(queries));
    Layout::load(q, queries, maps.q, barrier, head, item.first + item.start);
    Layout::load(dout, queries, maps.dout, barrier, head, item.first + item.start);
    for (int tile = 0; tile < min(tiles, stages); ++tile) load_keys(tile, tile);
  }
  const Fragment mine = fragment();
  const int row = item.start + group * box_rows + mine.row;
  const DropoutDraw<false> draw(task.dropout, item, head, row);
  const float scale = task.scale * log2_e;
  float lse[2] = {}, delta[2] = {};
  if (score != Score::bernoulli && item.start + group * box_rows < item.length) {
    const RowStatistics& rows =
        task.statistics[head * task.statistics_blocks + first_block(item) + item.start / box_rows + group];
#pragma unroll
    for (int h = 0; h < 2; ++h) lse[h] = rows.lse[mine.row + 8 * h], delta[h] = rows.delta[mine.row + 8 * h];
  }
  float dq[width / 2];
  wait(shared_address(&memory.queries_full), 0);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % stages;
    const std::uint32_t place = tile_bytes * stage;
    wait(full + 8 * stage, tile / stages & 1);
    const int valid = item.length - tile * key_rows;
    Layout::clear_tails(memory.k[stage], memory.v[stage], key_rows, valid, threads);
    float scores[32], dp[32];
    std::uint32_t weights[16], ds[16];
    begin_products();
    multiply_along_width<width>(scores, q, queries, group * box_rows, k + place);
    multiply_along_width<width>(dp, dout, queries, group * box_rows, v + place);
    wait_products<1>();  // also for the products of the tile before
    pin(scores);
    if (tile > 0 && is_first_lane()) arrive(empty + 8 * ((tile - 1) % stages));
    if (threadIdx.x == 0 && tile > 1 && tile - 2 + stages < tiles) {
      wait(empty + 8 * ((tile - 2) % stages), (tile - 2) / stages & 1);
      load_keys(tile - 2 + stages, (tile - 2) % stages);
    }
    if constexpr (score == Score::bernoulli)
      bernoulli_gradient(scores, weights, ds, task.bits, task.is_exact);
    else
      weigh(scores, lse, scale, mine.column, valid);
    if constexpr (score == Score::softmax_dropout) {
#pragma unroll
      for (int i = 0; i < 16; ++i) weights[i] = pack_bfloat16(scores[2 * i], scores[2 * i + 1]);
      draw.apply(weights, 4 * tile);
      draw.apply(weights + 8, 4 * tile + 2);
    }
    wait_products<0>();
    pin(dp);
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const float mean = delta[i >> 1 & 1];
      if constexpr (score == Score::softmax_dropout)
        ds[i / 2] = pack_bfloat16(fmaf(low_bfloat16(weights[i / 2]), dp[i], -scores[i] * mean),
                                  fmaf(high_bfloat16(weights[i / 2]), dp[i + 1], -scores[i + 1] * mean));
      else if constexpr (score == Score::bernoulli)
        ds[i / 2] = pack_bfloat16(low_bfloat16(ds[i / 2]) * dp[i], high_bfloat16(ds[i / 2]) * dp[i + 1]);
      else
        ds[i / 2] = pack_bfloat16(scores[i] * (dp[i] - mean), scores[i + 1] * (dp[i + 1] - mean));
    }
    begin_products();
    multiply_along_rows<width>(dq, ds, k + place, tile > 0);
  }
  wait_products<0>();
  pin(dq);
  const std::int64_t token = std::int64_t{item.first} + item.start + group * box_rows;
  const int valid_rows = item.length - item.start - group * box_rows;
  const float factor = task.gradient_scale / task.kept_share;
  if constexpr (score == Score::bernoulli)
    store_gradient<width>(task.dq, task.q, token, head, valid_rows, dq, factor);
  else
    store_rows<width>(task.dq, token, head, valid_rows, dq, factor, factor);
}

template <int width, Score score>
__global__ void __launch_bounds__(2 * backward_rows(width), 1)
    query_gradients_kernel(const __grid_constant__ BackwardMaps maps,
                           const __grid_constant__ BackwardTask task) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) std::byte shared[];
  auto& memory = *reinterpret_cast<QueryMemory<width>*>(shared);
  const WorkItem item = task.items[blockIdx.x];
  if (item.length == 0) return;
  if (item.sequence < 0) {
    clear_rows<width>(task.dq, item, backward_rows(width), static_cast<int>(blockIdx.y));
    return;
  }
  if (threadIdx.x == 0) {
    init_barrier(shared_address(&memory.queries_full), 1);
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(shared_address(&memory.full[stage]), 1);
      init_barrier(shared_address(&memory.empty[stage]), 2 * backward_rows(width) / warp_lanes);
    }
    publish_barriers();
  }
  __syncthreads();
  pass_keys<width, score>(maps, task, item, memory);
#endif
}

template <int width, Score score>
void launch(Cuda& cuda, const BackwardMaps& maps, const BackwardTask& task, std::int64_t items) {
  const auto kernel = query_gradients_kernel<width, score>;
  constexpr int bytes = sizeof(QueryMemory<width>);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention");
  const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(task.dq.heads));
  kernel<<<grid, 2 * backward_rows(width), bytes, cuda.stream>>>(maps, task);
  check_launch("attention query gradients");
}

}  // namespace

template <Score score>
void launch_query_gradients(Cuda& cuda, const BackwardMaps& maps, const BackwardTask& task,
                            std::int64_t items) {
  if (task.dq.width == 32) launch<32, score>(cuda, maps, task, items);
  if (task.dq.width == 64) launch<64, score>(cuda, maps, task, items);
  if (task.dq.width == 128) launch<128, score>(cuda, maps, task, items);
}
template void launch_query_gradients<Score::softmax>(Cuda&, const BackwardMaps&, const BackwardTask&,
                                                     std::int64_t);
template void launch_query_gradients<Score::softmax_dropout>(Cuda&, const BackwardMaps&, const BackwardTask&,
                                                             std::int64_t);
template void launch_query_gradients<Score::bernoulli>(Cuda&, const BackwardMaps&, const BackwardTask&,
                                                       std::int64_t);

}  // namespace tern::kernels::hopper
