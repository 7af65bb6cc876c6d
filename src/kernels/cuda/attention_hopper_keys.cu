// dk and dv of exact attention on sm_90a: a warpgroup keeps 64 keys, tiles of 64 queries pass by. Scores and
// their gradients are computed transposed, keys as rows, so that both stay in registers as left operands of the
// products that sum over queries; deterministic, 8 heads x length^2 x width operations. On request also dq,
// through the warpgroups' shared gradients: additions to device memory in no fixed order.
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper_backward.h"

namespace tern::kernels::hopper {

/// Weights of scores; `statistics` are those of the queries along the columns.
__device__ __forceinline__ void weigh(const float (&scores)[32], std::uint32_t (&weights)[16],
                                      const RowStatistics& statistics, float scale, int column) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 lse = *reinterpret_cast<const float2*>(statistics.lse + 8 * j + column);
#pragma unroll
    for (int i = 4 * j; i < 4 * j + 4; i += 2)
      weights[i / 2] = pack_bfloat16(exp2_approximate(fmaf(scores[i], scale, -lse.x)),
                                     exp2_approximate(fmaf(scores[i + 1], scale, -lse.y)));
  }
}

/// Clears the weights of a thread's two rows where these are not among the `valid` ones from its first row on.
__device__ __forceinline__ void drop_rows(std::uint32_t (&weights)[16], int valid) {
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (i % 2 * 8 >= valid) weights[i] = 0;
}

namespace {

constexpr int query_rows = 64, stages = 4, gradient_stages = 3;

/// `fused`: with buffers for the scores' gradient.
template <int width, bool fused>
struct KeyMemory {
  static constexpr int keys = backward_rows(width);
  std::byte k[Tile<width>::bytes(keys)], v[Tile<width>::bytes(keys)];
  std::byte q[stages][Tile<width>::bytes(query_rows)], dout[stages][Tile<width>::bytes(query_rows)];
  std::byte gradient[fused ? gradient_stages : 1][fused ? keys * 2 * query_rows : 1024];
  RowStatistics statistics[stages];
  std::uint64_t keys_full, full[stages], empty[stages];
  std::uint64_t gradient_full[gradient_stages], gradient_empty[gradient_stages];
};

/// The scores' gradient, replacing the weights: p (dp - delta), or with dropout p_kept dp - p delta, where
/// p_kept is masked but not scaled, delta is multiplied by the kept share, and the result is too large by 1 /
/// share.
template <Score score>
__device__ __forceinline__ void differentiate(std::uint32_t (&weights)[16], const std::uint32_t (&kept)[16],
                                              const float (&dp)[32], const RowStatistics& statistics,
                                              int column) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float2 delta{};
    if constexpr (score != Score::bernoulli)
      delta = *reinterpret_cast<const float2*>(statistics.delta + 8 * j + column);
#pragma unroll
    for (int i = 4 * j; i < 4 * j + 4; i += 2) {
      const float even = low_bfloat16(weights[i / 2]), odd = high_bfloat16(weights[i / 2]);
      if constexpr (score == Score::softmax_dropout)
        weights[i / 2] = pack_bfloat16(fmaf(low_bfloat16(kept[i / 2]), dp[i], -even * delta.x),
                                       fmaf(high_bfloat16(kept[i / 2]), dp[i + 1], -odd * delta.y));
      else
        weights[i / 2] = pack_bfloat16(even * (dp[i] - delta.x), odd * (dp[i + 1] - delta.y));
    }
  }
}

/// Leaves the scores' gradient [keys, 64 queries] where another warpgroup's product finds it.
template <int width>
__device__ __forceinline__ void share_gradient(KeyMemory<width, true>& memory, const std::uint32_t (&ds)[16],
                                               int group, int tile) {
  const int buffer = tile % gradient_stages, lane = static_cast<int>(threadIdx.x) % warp_lanes;
  if (tile >= gradient_stages)
    wait(shared_address(&memory.gradient_empty[buffer]), (tile / gradient_stages - 1) & 1);
  const int row = static_cast<int>(threadIdx.x) / warp_lanes * 16 + lane / 8 % 2 * 8 + lane % 8;
  const std::uint32_t address = shared_address(memory.gradient[buffer]) + static_cast<std::uint32_t>(row * 128);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    store_matrices(address + static_cast<std::uint32_t>(((2 * i + lane / 16) ^ (lane % 8)) * 16), ds + 4 * i);
  fence_shared_writes();
  __syncwarp();
  if (is_first_lane()) arrive(shared_address(&memory.gradient_full[buffer]));
}

/// dq of a tile's queries, contracted over the block's keys, added to its place in device memory: 64 x width
/// floats in the order of the accumulators.
template <int width>
__device__ __forceinline__ void add_query_gradient(KeyMemory<width, true>& memory, float* dq_blocks, int tile) {
  constexpr int keys = backward_rows(width);
  const int buffer = tile % gradient_stages;
  const std::uint32_t ds = shared_address(memory.gradient[buffer]), k = shared_address(memory.k);
  wait(shared_address(&memory.gradient_full[buffer]), tile / gradient_stages & 1);
  float dq[width / 2];
  begin_products();
#pragma unroll
  for (int step = 0; step < keys / 16; ++step)
    Product<width>::template add<true, true>(dq, Tile<64>::along_rows(ds, keys, step),
                                             Tile<width>::along_rows(k, keys, step), step > 0);
  commit_products();
  wait_products<0>();
  pin(dq);
  if (is_first_lane()) arrive(shared_address(&memory.gradient_empty[buffer]));
  float* const target =
      dq_blocks + std::int64_t{tile} * (box_rows * width) + threadIdx.x % warpgroup_threads * 4;
#pragma unroll
  for (int i = 0; i < width / 2; i += 4) add_vector(target + i * warpgroup_threads, dq + i);
}

/// One thread: a tile of queries with their dout and statistics.
template <Score score, int width, bool fused>
__device__ __forceinline__ void load_queries(const BackwardMaps& maps, const BackwardTask& task,
                                             const WorkItem& item, KeyMemory<width, fused>& memory, int tile) {
  constexpr std::uint32_t row_bytes = score == Score::bernoulli ? 0 : sizeof(RowStatistics);
  const int head = task.first_head + static_cast<int>(blockIdx.y), stage = tile % stages;
  const int token = item.first + tile * query_rows;
  const std::uint32_t barrier = shared_address(&memory.full[stage]);
  arrive_expecting(barrier, 2 * Tile<width>::bytes(query_rows) + row_bytes);
  Tile<width>::load(shared_address(memory.q[stage]), query_rows, maps.q, barrier, head, token);
  Tile<width>::load(shared_address(memory.dout[stage]), query_rows, maps.dout, barrier, head, token);
  if constexpr (score != Score::bernoulli)
    copy_bytes(shared_address(&memory.statistics[stage]),
               task.statistics + head * task.statistics_blocks + first_block(item) + tile, row_bytes, barrier);
}

template <int width, Score score, bool fused>
__device__ __forceinline__ void pass_queries(const BackwardMaps& maps, const BackwardTask& task,
                                             const WorkItem& item, KeyMemory<width, fused>& memory) {
  using Layout = Tile<width>;
  constexpr int keys = backward_rows(width), threads = 2 * keys, groups = keys / box_rows;
  constexpr std::uint32_t tile_bytes = Layout::bytes(query_rows);
  const int head = task.first_head + static_cast<int>(blockIdx.y), group = warpgroup_index();
  const int tiles = (item.length + query_rows - 1) / query_rows;
  __builtin_assume(tiles > 0);
  const std::uint32_t k = shared_address(memory.k), v = shared_address(memory.v), q = shared_address(memory.q),
                      dout = shared_address(memory.dout);
  const std::uint32_t full = shared_address(memory.full), empty = shared_address(memory.empty);
  if (threadIdx.x == 0) {
    const std::uint32_t barrier = shared_address(&memory.keys_full);
    arrive_expecting(barrier, 2 * Layout::bytes(keys));
    Layout::load(k, keys, maps.k, barrier, head, item.first + item.start);
    Layout::load(v, keys, maps.v, barrier, head, item.first + item.start);
    for (int tile = 0; tile < min(tiles, stages); ++tile) load_queries<score>(maps, task, item, memory, tile);
  }
  const Fragment mine = fragment();
  const DropoutDraw<true> draw(task.dropout, item, head, item.start + group * box_rows + mine.row);
  const float scale = task.scale * log2_e;
  float dk[width / 2], dv[width / 2];
  wait(shared_address(&memory.keys_full), 0);
  const int valid_keys = item.length - item.start;
  if (fused) Layout::clear_tails(memory.k, memory.v, keys, valid_keys, threads);
  float* const dq_blocks =
      task.dq_blocks + (blockIdx.y * task.statistics_blocks + first_block(item)) * (box_rows * width);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % stages;
    const std::uint32_t place = tile_bytes * stage;
    wait(full + 8 * stage, tile / stages & 1);
    Layout::clear_tails(memory.q[stage], memory.dout[stage], query_rows, item.length - tile * query_rows,
                        threads);
    float scores[32];
    begin_products();
    multiply_along_width<width>(scores, k, keys, group * box_rows, q + place);
    wait_products<0>();  // also for the products of the tile before
    pin(scores);
    if (tile > 0 && is_first_lane()) arrive(empty + 8 * ((tile - 1) % stages));
    if (threadIdx.x == 0 && tile > 1 && tile - 2 + stages < tiles) {
      wait(empty + 8 * ((tile - 2) % stages), (tile - 2) / stages & 1);
      load_queries<score>(maps, task, item, memory, tile - 2 + stages);
    }
    std::uint32_t weights[16], kept[16];  // the latter only with dropout, or for another factor of the gradient
    if constexpr (score == Score::bernoulli)
      bernoulli_gradient(scores, kept, weights, task.bits, task.is_exact);
    else
      weigh(scores, weights, memory.statistics[stage], scale, mine.column);
    if (fused && valid_keys < keys) drop_rows(weights, valid_keys - group * box_rows - mine.row);
    if constexpr (score == Score::softmax_dropout) {
#pragma unroll
      for (int i = 0; i < 16; ++i) kept[i] = weights[i];
      draw.apply(kept, 4 * tile);
      draw.apply(kept + 8, 4 * tile + 2);
    }
    float dp[32];
    begin_products();
    multiply_along_width<width>(dp, v, keys, group * box_rows, dout + place);
    multiply_along_rows<width>(dv, score == Score::softmax ? weights : kept, dout + place, tile > 0);
    wait_products<score == Score::softmax ? 0 : 1>();
    pin(dp);
    differentiate<score>(weights, kept, dp, memory.statistics[stage], mine.column);
    if constexpr (fused) share_gradient<width>(memory, weights, group, tile);
    begin_products();
    multiply_along_rows<width>(dk, weights, q + place, tile > 0);
    if constexpr (fused)
      if (tile > 0 && (tile - 1) % groups == group) add_query_gradient<width>(memory, dq_blocks, tile - 1);
  }
  if constexpr (fused)
    if ((tiles - 1) % groups == group) add_query_gradient<width>(memory, dq_blocks, tiles - 1);
  wait_products<0>();
  pin(dk);
  pin(dv);
  const std::int64_t token = std::int64_t{item.first} + item.start + group * box_rows;
  const int valid_rows = item.length - item.start - group * box_rows;
  const float kept = 1.0f / task.kept_share;
  store_rows<width>(task.dv, token, head, valid_rows, dv, kept, kept);
  if constexpr (score == Score::bernoulli)
    store_gradient<width>(task.dk, task.k, token, head, valid_rows, dk, task.gradient_scale);
  else
    store_rows<width>(task.dk, token, head, valid_rows, dk, kept * task.gradient_scale,
                      kept * task.gradient_scale);
}

template <int width, Score score, bool fused>
__global__ void __launch_bounds__(2 * backward_rows(width), 1)
    key_gradients_kernel(const __grid_constant__ BackwardMaps maps, const __grid_constant__ BackwardTask task) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) std::byte shared[];
  auto& memory = *reinterpret_cast<KeyMemory<width, fused>*>(shared);
  const WorkItem item = task.items[blockIdx.x];
  if (item.length == 0) return;
  if (item.sequence < 0) {
    const int head = task.first_head + static_cast<int>(blockIdx.y);
    clear_rows<width>(task.dk, item, backward_rows(width), head);
    clear_rows<width>(task.dv, item, backward_rows(width), head);
    return;
  }
  if (threadIdx.x == 0) {
    init_barrier(shared_address(&memory.keys_full), 1);
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(shared_address(&memory.full[stage]), 1);
      init_barrier(shared_address(&memory.empty[stage]), 2 * backward_rows(width) / warp_lanes);
    }
    for (int buffer = 0; buffer < gradient_stages; ++buffer) {
      init_barrier(shared_address(&memory.gradient_full[buffer]), 2 * backward_rows(width) / warp_lanes);
      init_barrier(shared_address(&memory.gradient_empty[buffer]), warpgroup_threads / warp_lanes);
    }
    publish_barriers();
  }
  __syncthreads();
  pass_queries<width, score, fused>(maps, task, item, memory);
#endif
}

template <int width, Score score, bool fused>
void launch(Cuda& cuda, const BackwardMaps& maps, const BackwardTask& task, std::int64_t items, int heads) {
  const auto kernel = key_gradients_kernel<width, score, fused>;
  constexpr int bytes = sizeof(KeyMemory<width, fused>);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention");
  const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(heads));
  kernel<<<grid, 2 * backward_rows(width), bytes, cuda.stream>>>(maps, task);
  check_launch("attention key gradients");
}

}  // namespace

template <Score score>
void launch_key_gradients(Cuda& cuda, const BackwardMaps& maps, const BackwardTask& task, std::int64_t items,
                          int heads) {
  const bool fused = task.dq_blocks != nullptr;
  if (task.dk.width == 32)
    (fused ? launch<32, score, true> : launch<32, score, false>)(cuda, maps, task, items, heads);
  if (task.dk.width == 64)
    (fused ? launch<64, score, true> : launch<64, score, false>)(cuda, maps, task, items, heads);
  if (task.dk.width == 128) launch<128, score, false>(cuda, maps, task, items, heads);
}
template void launch_key_gradients<Score::softmax>(Cuda&, const BackwardMaps&, const BackwardTask&,
                                                   std::int64_t, int);
template void launch_key_gradients<Score::softmax_dropout>(Cuda&, const BackwardMaps&, const BackwardTask&,
                                                           std::int64_t, int);
template void launch_key_gradients<Score::bernoulli>(Cuda&, const BackwardMaps&, const BackwardTask&,
                                                     std::int64_t, int);

}  // namespace tern::kernels::hopper
