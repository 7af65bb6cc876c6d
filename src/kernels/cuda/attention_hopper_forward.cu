// Exact attention forward on sm_90a: 128 queries a block as two warpgroups of 64, key tiles of 128 (64 for
// width 128) through the copy engine, scores and weights in registers. Two blocks share a multiprocessor, so
// that four warpgroups overlap products with exponentials. Deterministic; heads x length^2 x width work, no
// scratch but a plan.
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper.h"

namespace tern::kernels {
namespace hopper {

/// Maximum and sum of a thread's two rows. The maximum lags behind by up to `slack` powers of two: rescaling is
/// then rare, and the weights stay below 2^slack.
struct RunningRows {
  static constexpr float slack = 8;
  float maximum[2] = {-infinity, -infinity}, sum[2] = {0, 0};

  template <int count, int width>
  __device__ __forceinline__ void follow_maximum(const float (&scores)[count], float (&acc)[width],
                                                 float scale) {
    float top[2] = {-infinity, -infinity};
#pragma unroll
    for (int i = 0; i < count; ++i) top[i >> 1 & 1] = fmaxf(top[i >> 1 & 1], scores[i]);
#pragma unroll
    for (float& x : top) {
      x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
    }
    const float limit = slack / scale;
    const bool grows = top[0] > maximum[0] + limit || top[1] > maximum[1] + limit;
    if (__any_sync(0xFFFFFFFFu, grows) == 0) return;
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float higher = fmaxf(maximum[h], top[h]);
      shrink[h] = exp2_approximate((maximum[h] - higher) * scale);
      maximum[h] = higher;
      sum[h] *= shrink[h];
    }
#pragma unroll
    for (int i = 0; i < width; ++i) acc[i] *= shrink[i >> 1 & 1];
  }

  /// weights = 2^(scale (scores - maximum)), packed as left operands.
  template <int count>
  __device__ __forceinline__ void weigh(const float (&scores)[count], std::uint32_t (&weights)[count / 2],
                                        float scale) {
    const float shift[2] = {maximum[0] * scale, maximum[1] * scale};
#pragma unroll
    for (int i = 0; i < count; i += 2) {
      const int h = i >> 1 & 1;
      const float even = exp2_approximate(fmaf(scores[i], scale, -shift[h]));
      const float odd = exp2_approximate(fmaf(scores[i + 1], scale, -shift[h]));
      sum[h] += even + odd;
      weights[i / 2] = pack_bfloat16(even, odd);
    }
  }
  __device__ __forceinline__ void add_lanes() {
#pragma unroll
    for (float& x : sum) {
      x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
      x += __shfl_xor_sync(0xFFFFFFFFu, x, 2);
    }
  }
};

template <int count>
__device__ __forceinline__ void bernoulli_weights(const float (&scores)[count],
                                                  std::uint32_t (&weights)[count / 2], int bits) {
  constexpr int chunk = 16;
#pragma unroll
  for (int base = 0; base < count; base += chunk) {
    float factor[chunk], p[chunk];
#pragma unroll
    for (int i = 0; i < chunk; ++i) factor[i] = agreement(scores[base + i]);
    raise(factor, p, bits);
#pragma unroll
    for (int i = 0; i < chunk; i += 2) weights[(base + i) / 2] = pack_bfloat16(p[i], p[i + 1]);
  }
}

namespace {

constexpr int query_rows = 128;
constexpr int threads = 2 * warpgroup_threads;

template <int width>
constexpr int key_rows = width == 128 ? 64 : 128;
template <int width>
constexpr int stages = width == 128 ? 2 : 3;

struct ForwardTask {
  const WorkItem* items;
  Heads<bfloat16> out;
  float* lse;   ///< softmax only
  float scale;  ///< of scores; positive
  int bits;     ///< bernoulli only
  WeightDropout dropout;
  Heads<float> norm{};  ///< bernoulli only: with data, rows are scaled to length one, and this is what they had
};
struct ForwardMaps {
  CUtensorMap q, k, v;
};

/// Lengths of a thread's two rows of 64, stored where they are below `rows`, and what scales them to one.
template <int count>
__device__ __forceinline__ void find_lengths(const Heads<float>& norm, std::int64_t token, int head, int rows,
                                             const float (&acc)[count], float (&factor)[2]) {
  const Fragment mine = fragment();
  float square[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < count; ++i) square[i >> 1 & 1] += acc[i] * acc[i];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float length = sqrtf(row_sum(square[h]));
    factor[h] = 1.0f / fmaxf(length, static_cast<float>(smallest_norm));
    const int row = mine.row + 8 * h;
    if (mine.column == 0 && row < rows) *row_of(norm, token + row, head) = length;
  }
}

template <int width>
struct ForwardMemory {
  static constexpr std::uint32_t tile_bytes = Tile<width>::bytes(key_rows<width>);
  std::byte q[Tile<width>::bytes(query_rows)];
  std::byte k[stages<width>][tile_bytes];
  std::byte v[stages<width>][tile_bytes];
  std::uint64_t q_full, full[stages<width>], empty[stages<width>];
};

template <int width, Score score>
__device__ __forceinline__ void attend(const ForwardMaps& maps, const ForwardTask& task, const WorkItem& item,
                                       ForwardMemory<width>& memory) {
  using Layout = Tile<width>;
  constexpr int keys = key_rows<width>, stage_count = stages<width>;
  const int head = static_cast<int>(blockIdx.y), group = warpgroup_index();
  const int tiles = (item.length + keys - 1) / keys;
  __builtin_assume(tiles > 0);
  const std::uint32_t q = shared_address(memory.q), k = shared_address(memory.k), v = shared_address(memory.v);
  const std::uint32_t full = shared_address(memory.full), empty = shared_address(memory.empty);
  constexpr std::uint32_t tile_bytes = ForwardMemory<width>::tile_bytes;
  const auto load_keys = [&](int tile, int stage) {
    const std::uint32_t barrier = full + 8 * stage, place = tile_bytes * stage;
    arrive_expecting(barrier, 2 * tile_bytes);
    Layout::load(k + place, keys, maps.k, barrier, head, item.first + tile * keys);
    Layout::load(v + place, keys, maps.v, barrier, head, item.first + tile * keys);
  };
  if (threadIdx.x == 0) {
    const std::uint32_t barrier = shared_address(&memory.q_full);
    arrive_expecting(barrier, Layout::bytes(query_rows));
    Layout::load(q, query_rows, maps.q, barrier, head, item.first + item.start);
    for (int tile = 0; tile < min(tiles, stage_count); ++tile) load_keys(tile, tile);
  }
  const Fragment mine = fragment();
  const int row = item.start + group * box_rows + mine.row;
  const DropoutDraw<false> draw(task.dropout, item, head, row);
  const float scale = task.scale * log2_e;
  RunningRows rows;
  float acc[width / 2] = {};
  wait(shared_address(&memory.q_full), 0);
  for (int tile = 0, stage = 0, parity = 0; tile < tiles; ++tile) {
    const std::uint32_t place = tile_bytes * stage;
    wait(full + 8 * stage, parity);
    const int valid = item.length - tile * keys;
    Layout::clear_tails(memory.k[stage], memory.v[stage], keys, valid, threads);
    float scores[keys / 2];
    begin_products();
    multiply_along_width<width>(scores, q, query_rows, group * box_rows, k + place);
    if (threadIdx.x == 0 && tile > 0 && tile - 1 + stage_count < tiles) {
      const int last = stage == 0 ? stage_count - 1 : stage - 1;
      wait(empty + 8 * last, stage == 0 ? parity ^ 1 : parity);
      load_keys(tile - 1 + stage_count, last);
    }
    wait_products<0>();
    pin(scores);
    std::uint32_t weights[keys / 4];
    if constexpr (score == Score::bernoulli) {
      bernoulli_weights(scores, weights, task.bits);
    } else {
      if (valid < keys) {
#pragma unroll
        for (int i = 0; i < keys / 2; ++i)
          if (i / 4 * 8 + mine.column + (i & 1) >= valid) scores[i] = -infinity;
      }
      rows.follow_maximum(scores, acc, scale);
      rows.weigh(scores, weights, scale);
      if constexpr (score == Score::softmax_dropout) {
#pragma unroll
        for (int i = 0; i < keys / 32; ++i) draw.apply(weights + 8 * i, tile * (keys / 16) + 2 * i);
      }
    }
    pin(acc);
    begin_products();
    multiply_along_rows<width>(acc, weights, v + place, true);
    wait_products<0>();
    pin(acc);
    if (is_first_lane()) arrive(empty + 8 * stage);
    if (++stage == stage_count) stage = 0, parity ^= 1;
  }
  const std::int64_t token = std::int64_t{item.first} + item.start + group * box_rows;
  const int valid_rows = item.length - item.start - group * box_rows;
  float factor[2] = {1, 1};
  if constexpr (score != Score::bernoulli) {
    rows.add_lanes();
    const float keep = score == Score::softmax_dropout ? task.dropout.keep : 1.0f;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      factor[h] = 1.0f / (rows.sum[h] * keep);
      if (mine.column == 0 && mine.row + 8 * h < valid_rows)
        task.lse[head * task.out.tokens + token + mine.row + 8 * h] =
            rows.maximum[h] * task.scale + logf(rows.sum[h]);
    }
  } else if (task.norm.data != nullptr) {
    find_lengths(task.norm, token, head, valid_rows, acc, factor);
  }
  store_rows<width>(task.out, token, head, valid_rows, acc, factor[0], factor[1]);
}

template <int width, Score score>
__global__ void __launch_bounds__(threads, 2)
    attention_forward_kernel(const __grid_constant__ ForwardMaps maps,
                             const __grid_constant__ ForwardTask task) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) std::byte shared[];
  auto& memory = *reinterpret_cast<ForwardMemory<width>*>(shared);
  const WorkItem item = task.items[blockIdx.x];
  if (item.length == 0) return;
  if (item.sequence < 0) {
    const int head = static_cast<int>(blockIdx.y);
    clear_rows<width>(task.out, item, query_rows, head);
    const int rows = min(query_rows, item.length - item.start);
    if (static_cast<int>(threadIdx.x) >= rows) return;
    const std::int64_t token = std::int64_t{item.first} + item.start + threadIdx.x;
    if (score != Score::bernoulli) task.lse[head * task.out.tokens + token] = 0;
    if (task.norm.data != nullptr) *row_of(task.norm, token, head) = 0;
    return;
  }
  if (threadIdx.x == 0) {
    init_barrier(shared_address(&memory.q_full), 1);
    for (int stage = 0; stage < stages<width>; ++stage) {
      init_barrier(shared_address(&memory.full[stage]), 1);
      init_barrier(shared_address(&memory.empty[stage]), threads / warp_lanes);
    }
    publish_barriers();
  }
  __syncthreads();
  attend<width, score>(maps, task, item, memory);
#endif
}

template <int width, Score score>
void launch(Cuda& cuda, const ForwardMaps& maps, const ForwardTask& task, std::int64_t items) {
  const auto kernel = attention_forward_kernel<width, score>;
  constexpr int bytes = sizeof(ForwardMemory<width>);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention");
  const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(task.out.heads));
  kernel<<<grid, threads, bytes, cuda.stream>>>(maps, task);
  check_launch("attention forward");
}

template <Score score>
void launch(Cuda& cuda, const Sequences& sequences, const AttentionInputs<bfloat16>& in, ForwardTask task) {
  const TilePlan plan(cuda, sequences, query_rows);
  task.items = plan.items.data();
  const ForwardMaps maps{tensor_map(in.q), tensor_map(in.k), tensor_map(in.v)};
  if (in.q.width == 32) launch<32, score>(cuda, maps, task, plan.count);
  if (in.q.width == 64) launch<64, score>(cuda, maps, task, plan.count);
  if (in.q.width == 128) launch<128, score>(cuda, maps, task, plan.count);
}

}  // namespace
}  // namespace hopper

bool softmax_attention_forward_hopper(Cuda& cuda, const Sequences& sequences,
                                      const AttentionInputs<bfloat16>& in, const SoftmaxOptions& options,
                                      Heads<bfloat16> out, float* lse) {
  using hopper::Score;
  if (!(options.scale > 0) || !hopper::serves(cuda, {in.q, in.k, in.v, read_only(out)})) return false;
  if (sequences.tokens == 0 || out.heads == 0) return true;
  const hopper::ForwardTask task{nullptr, out,
                                 lse,     static_cast<float>(options.scale),
                                 0,       hopper::prepare_dropout(options.dropout, sequences.sample)};
  if (weight_dropout_threshold(options.dropout.rate) > 0)
    hopper::launch<Score::softmax_dropout>(cuda, sequences, in, task);
  else
    hopper::launch<Score::softmax>(cuda, sequences, in, task);
  return true;
}

bool expect_values_hopper(Cuda& cuda, const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                          const BernoulliOptions& options, Heads<bfloat16> y, Heads<float> norm) {
  if (!hopper::serves(cuda, {in.q, in.k, in.v, read_only(y)})) return false;
  if (sequences.tokens == 0 || y.heads == 0) return true;
  hopper::launch<hopper::Score::bernoulli>(cuda, sequences, in,
                                           {nullptr, y, nullptr, 1, options.bits, {}, norm});
  return true;
}

}  // namespace tern::kernels
