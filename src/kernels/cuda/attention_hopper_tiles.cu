// The plan is deterministic and costs one block: a scan over the sequences and a binary search for each tile.
#include "kernels/cuda/attention_hopper_tiles.h"
#include "kernels/cuda/block.cuh"

namespace tern::kernels::hopper {
namespace {

constexpr int plan_threads = 1024;

/// Sequence `rank` by falling length; rank `count` stands for the rows beyond the last sequence.
__device__ WorkItem ranked_sequence(const Sequences& sequences, std::int64_t rank) {
  const auto count = sequences.count;
  if (rank == count) {
    const std::int32_t first = sequences.offsets[count];
    return {first, static_cast<std::int32_t>(sequences.tokens) - first, 0, -1};
  }
  const std::int32_t s = sequences.order[rank], first = sequences.offsets[s];
  return {first, sequences.offsets[s + 1] - first, 0, s};
}

/// Sum of x over this and all lower threads; `sums` holds a value for each warp.
__device__ int inclusive_scan(int x, int* sums) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  for (int step = 1; step < warp_lanes; step *= 2) {
    const int lower = __shfl_up_sync(0xFFFFFFFFu, x, step);
    if (lane >= step) x += lower;
  }
  if (lane == warp_lanes - 1) sums[warp] = x;
  __syncthreads();
  for (int w = 0; w < warp; ++w) x += sums[w];
  return x;
}

__global__ void __launch_bounds__(plan_threads)
    plan_kernel(Sequences sequences, int tile, std::int64_t items, int* first_item, WorkItem* plan) {
  __shared__ int sums[plan_threads / warp_lanes];
  __shared__ int running;
  const std::int64_t ranks = sequences.count + 1;
  if (threadIdx.x == 0) running = 0;
  for (std::int64_t base = 0; base < ranks; base += plan_threads) {
    const std::int64_t rank = base + threadIdx.x;
    const int tiles = rank < ranks ? (ranked_sequence(sequences, rank).length + tile - 1) / tile : 0;
    __syncthreads();
    const int last = running + inclusive_scan(tiles, sums);
    if (rank < ranks) first_item[rank] = last - tiles;
    __syncthreads();
    if (threadIdx.x == plan_threads - 1) running = last;
  }
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < items; i += plan_threads) {
    std::int64_t low = 0, high = ranks;  // first_item[low] <= i < first_item[high]
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      (first_item[middle] <= i ? low : high) = middle;
    }
    WorkItem item = ranked_sequence(sequences, low);
    item.start = static_cast<int>(i - first_item[low]) * tile;
    if (item.start >= item.length) item.length = 0;
    plan[i] = item;
  }
}

/// Its static shared memory tells the host whether this program holds code for sm_90a.
__global__ void marker_kernel(int* out) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ volatile int marker;
  marker = static_cast<int>(threadIdx.x);
  if (out != nullptr) *out = marker;
#endif
}

bool has_code() {
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, marker_kernel) == cudaSuccess) return attributes.sharedSizeBytes > 0;
  cudaGetLastError();
  return false;
}

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);
/// Null where the driver is too old.
EncodeTensorMap find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return reinterpret_cast<EncodeTensorMap>(function);
}
EncodeTensorMap encoder() {
  static const EncodeTensorMap function = find_encoder();
  return function;
}

bool suits(const Heads<const bfloat16>& view) {
  constexpr std::int64_t alignment = 8, limit = std::int64_t{1} << 38;  // elements
  const auto is_stride = [](std::int64_t stride) {
    return stride > 0 && stride % alignment == 0 && stride < limit;
  };
  return (view.width == 32 || view.width == 64 || view.width == 128) && is_aligned(16, view.data) &&
         (view.heads == 1 || is_stride(view.head_stride)) && (view.tokens <= 1 || is_stride(view.token_stride));
}

}  // namespace

bool serves(const Cuda& cuda, std::initializer_list<Heads<const bfloat16>> views) {
  static const bool is_built = has_code();
  if (cuda.capability != 90 || !is_built || encoder() == nullptr) return false;
  for (const Heads<const bfloat16>& view : views)
    if (!suits(view) || view.width != views.begin()->width) return false;
  return true;
}

CUtensorMap tensor_map(Heads<const bfloat16> view) {
  const auto width = static_cast<cuuint64_t>(view.width);
  const auto bytes = [&](std::int64_t count, std::int64_t stride) {
    return count > 1 ? static_cast<cuuint64_t>(stride) * sizeof(bfloat16) : width * sizeof(bfloat16);
  };
  const cuuint64_t extents[] = {width, static_cast<cuuint64_t>(view.heads),
                                static_cast<cuuint64_t>(view.tokens)};
  const cuuint64_t strides[] = {bytes(view.heads, view.head_stride), bytes(view.tokens, view.token_stride)};
  const cuuint32_t box[] = {std::min<cuuint32_t>(static_cast<cuuint32_t>(width), 64), 1, box_rows};
  const cuuint32_t steps[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status = encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<bfloat16*>(view.data),
                                    extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                    width == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  ensure(status == CUDA_SUCCESS, "attention: a tensor map of [{}, {}, {}] must encode, got error {}",
         view.tokens, view.heads, view.width, static_cast<int>(status));
  return map;
}

TilePlan::TilePlan(Cuda& cuda, const Sequences& sequences, int tile)
    : items(cuda, sequences.tokens / tile + sequences.count + 1),
      count(sequences.tokens / tile + sequences.count + 1) {
  Scratch<int> first_item(cuda, sequences.count + 1);
  plan_kernel<<<1, plan_threads, 0, cuda.stream>>>(sequences, tile, count, first_item.data(), items.data());
  check_launch("attention plan");
}

WeightDropout prepare_dropout(const AttentionDropout& dropout, const std::int64_t* sample) {
  WeightDropout law{};
  PhiloxKey key = dropout.stream.key;
  for (int round = 0; round < 10; ++round) {
    law.round_key[2 * round] = key.low;
    law.round_key[2 * round + 1] = key.high;
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  law.step = dropout.stream.step;
  law.sample = sample;
  const std::uint32_t threshold = weight_dropout_threshold(dropout.rate);
  law.bias = (threshold <= 128 ? 128 - threshold : 256 - threshold) * 0x01010101u;
  law.either = threshold <= 128 ? 0xFFFFFFFFu : 0u;
  law.keep = static_cast<float>(256 - threshold) / 256.0f;
  return law;
}

}  // namespace tern::kernels::hopper
