// Exact attention backward on sm_90a: statistics of the queries, then dk and dv in one pass, which adds dq to
// blocks of floats by atomic additions of vectors. In deterministic mode, for width 128 and for short sequences
// a second pass computes dq with the weights drawn and computed again: 7 products for 5, but a fixed order and
// no memory beyond two floats a query and head.
#include <numbers>

#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/attention_hopper_backward.h"

namespace tern::kernels {
namespace hopper {
namespace {

constexpr int statistics_threads = 256;
/// Device memory for dq in float at one time; more heads than fit are worked on one group after the other.
constexpr std::int64_t scratch_bytes = std::int64_t{64} << 20;

struct StatisticsTask {
  const WorkItem* items;
  Heads<const bfloat16> out, dout;
  const float* lse;
  RowStatistics* statistics;
  std::int64_t statistics_blocks;
  float keep;
};

/// 64 rows a block, 16 bytes a lane.
template <int width>
__global__ void __launch_bounds__(statistics_threads) statistics_kernel(const StatisticsTask task) {
  constexpr int row_lanes = width / 8, pass_rows = statistics_threads / row_lanes;
  const WorkItem item = task.items[blockIdx.x];
  const int start = item.start + static_cast<int>(blockIdx.z) * box_rows;
  if (item.sequence < 0 || start >= item.length) return;
  const int head = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x) % row_lanes;
  RowStatistics& target = task.statistics[head * task.statistics_blocks + first_block(item) + start / box_rows];
#pragma unroll
  for (int pass = 0; pass < box_rows; pass += pass_rows) {
    const int row = pass + static_cast<int>(threadIdx.x) / row_lanes;
    float lse = infinity, delta = 0;
    if (start + row < item.length) {
      const std::int64_t token = std::int64_t{item.first} + start + row;
      lse = task.lse[head * task.out.tokens + token] * log2_e;
      const auto x = load_pack<8>(row_of(task.out, token, head) + 8 * lane);
      const auto y = load_pack<8>(row_of(task.dout, token, head) + 8 * lane);
#pragma unroll
      for (int i = 0; i < 8; ++i) delta += to_accumulate(x.item[i]) * to_accumulate(y.item[i]);
    }
    delta = warp_sum(delta, row_lanes) * task.keep;
    if (lane == 0) target.lse[row] = lse, target.delta[row] = delta;
  }
}

void launch_statistics(Cuda& cuda, const StatisticsTask& task, std::int64_t items) {
  const int width = task.out.width;
  const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(task.out.heads),
                  static_cast<unsigned>(backward_rows(width) / box_rows));
  const auto kernel = width == 32   ? statistics_kernel<32>
                      : width == 64 ? statistics_kernel<64>
                                    : statistics_kernel<128>;
  kernel<<<grid, statistics_threads, 0, cuda.stream>>>(task);
  check_launch("attention statistics");
}

/// dq from its blocks of floats: a warpgroup for 64 rows.
template <int width>
__global__ void __launch_bounds__(2 * backward_rows(width)) collect_kernel(const BackwardTask task) {
  const WorkItem item = task.items[blockIdx.x];
  const int head = task.first_head + static_cast<int>(blockIdx.y);
  if (item.sequence < 0) return clear_rows<width>(task.dq, item, backward_rows(width), head);
  const int start = item.start + static_cast<int>(threadIdx.x) / warpgroup_threads * box_rows;
  if (start >= item.length) return;
  const float* const block =
      task.dq_blocks +
      (blockIdx.y * task.statistics_blocks + first_block(item) + start / box_rows) * (box_rows * width);
  float dq[width / 2];
#pragma unroll
  for (int i = 0; i < width / 2; i += 4) {
    const auto pack = load_pack<4>(block + i * warpgroup_threads + threadIdx.x % warpgroup_threads * 4);
#pragma unroll
    for (int c = 0; c < 4; ++c) dq[i + c] = pack.item[c];
  }
  store_gradient<width>(task.dq, task.q, std::int64_t{item.first} + start, head, item.length - start, dq,
                        task.gradient_scale / task.kept_share);
}

/// Blocks of one head, with those of a last item's warpgroups beyond the end.
std::int64_t statistics_blocks(const Sequences& sequences) {
  return sequences.tokens / box_rows + sequences.count + 1 + backward_rows(64) / box_rows;
}

/// Sums dq in device memory, in no fixed order.
template <Score score>
void launch_fused(Cuda& cuda, const BackwardMaps& maps, BackwardTask task, std::int64_t items) {
  const int width = task.dq.width, all_heads = task.dq.heads;
  const std::int64_t head_floats = task.statistics_blocks * box_rows * width;
  const auto heads = static_cast<int>(std::clamp<std::int64_t>(
      scratch_bytes / static_cast<std::int64_t>(sizeof(float)) / head_floats, 1, all_heads));
  const Scratch<float> blocks(cuda, heads * head_floats);
  task.dq_blocks = blocks.data();
  for (task.first_head = 0; task.first_head < all_heads; task.first_head += heads) {
    const int group = std::min(heads, all_heads - task.first_head);
    const auto bytes = static_cast<std::size_t>(group * head_floats) * sizeof(float);
    check_cuda(cudaMemsetAsync(task.dq_blocks, 0, bytes, cuda.stream), "attention");
    launch_key_gradients<score>(cuda, maps, task, items, group);
    const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(group));
    const auto kernel = width == 32 ? collect_kernel<32> : collect_kernel<64>;
    kernel<<<grid, 2 * backward_rows(width), 0, cuda.stream>>>(task);
    check_launch("attention query gradients");
  }
}

/// Fused where atomic additions are allowed and pay: not for short sequences, which one block of keys covers.
template <Score score>
void launch_gradients(Cuda& cuda, const Sequences& sequences, const BackwardMaps& maps,
                      const BackwardTask& task, std::int64_t items) {
  constexpr int long_enough = 384;
  const bool is_padded = task.statistics_blocks > 2 * (sequences.tokens / box_rows);
  if (!cuda.options.deterministic && task.dq.width <= 64 && sequences.longest >= long_enough && !is_padded)
    return launch_fused<score>(cuda, maps, task, items);
  launch_key_gradients<score>(cuda, maps, task, items, task.dk.heads);
  launch_query_gradients<score>(cuda, maps, task, items);
}

}  // namespace
}  // namespace hopper

bool softmax_attention_backward_hopper(Cuda& cuda, const Sequences& sequences,
                                       const AttentionInputs<bfloat16>& in, const SoftmaxOptions& options,
                                       const SoftmaxResult<bfloat16>& result, Heads<const bfloat16> dout,
                                       const AttentionGradients<bfloat16>& out) {
  using hopper::tensor_map, hopper::Score;
  const auto dq = read_only(out.dq), dk = read_only(out.dk), dv = read_only(out.dv);
  if (!(options.scale > 0) || !hopper::serves(cuda, {in.q, in.k, in.v, result.out, dout, dq, dk, dv}))
    return false;
  if (sequences.tokens == 0 || dq.heads == 0) return true;
  const int tile = hopper::backward_rows(in.q.width);
  const hopper::TilePlan plan(cuda, sequences, tile);
  const std::int64_t blocks = hopper::statistics_blocks(sequences);
  const Scratch<hopper::RowStatistics> statistics(cuda, dq.heads * blocks);
  const bool drops = weight_dropout_threshold(options.dropout.rate) > 0;
  const auto law = hopper::prepare_dropout(options.dropout, sequences.sample);
  const float kept_share = drops ? law.keep : 1.0f;
  const hopper::StatisticsTask rows{plan.items.data(), result.out, dout,      result.lse,
                                    statistics.data(), blocks,     kept_share};
  hopper::launch_statistics(cuda, rows, plan.count);
  const hopper::BackwardMaps maps{tensor_map(in.q), tensor_map(in.k), tensor_map(in.v), tensor_map(dout)};
  const auto scale = static_cast<float>(options.scale);
  hopper::BackwardTask task{plan.items.data(), statistics.data(), blocks, out.dq, out.dk, out.dv};
  task.scale = task.gradient_scale = scale;
  task.kept_share = kept_share;
  task.dropout = law;
  if (drops)
    hopper::launch_gradients<Score::softmax_dropout>(cuda, sequences, maps, task, plan.count);
  else
    hopper::launch_gradients<Score::softmax>(cuda, sequences, maps, task, plan.count);
  return true;
}

bool differentiate_expectation_hopper(Cuda& cuda, const Sequences& sequences,
                                      const AttentionInputs<bfloat16>& in, const BernoulliOptions& options,
                                      const InputLengths<bfloat16>& lengths, Heads<const bfloat16> dy,
                                      const AttentionGradients<bfloat16>& out) {
  using hopper::tensor_map;
  const auto dq = read_only(out.dq), dk = read_only(out.dk), dv = read_only(out.dv);
  if (!hopper::serves(cuda, {in.q, in.k, in.v, dy, dq, dk, dv})) return false;
  if (sequences.tokens == 0 || dq.heads == 0) return true;
  const hopper::TilePlan plan(cuda, sequences, hopper::backward_rows(in.q.width));
  const hopper::BackwardMaps maps{tensor_map(in.q), tensor_map(in.k), tensor_map(in.v), tensor_map(dy)};
  const bool is_exact = options.gradient == BernoulliGradient::exact;
  const auto bits = static_cast<float>(options.bits);
  hopper::BackwardTask task{
      plan.items.data(), nullptr, hopper::statistics_blocks(sequences), out.dq, out.dk, out.dv};
  task.bits = options.bits;
  task.is_exact = is_exact;
  task.gradient_scale = is_exact ? bits * std::numbers::inv_pi_v<float> : bits / 2;
  if (lengths.q.data != nullptr) {
    task.q = {in.q, lengths.q};
    task.k = {in.k, lengths.k};
  }
  hopper::launch_gradients<hopper::Score::bernoulli>(cuda, sequences, maps, task, plan.count);
  return true;
}

}  // namespace tern::kernels
