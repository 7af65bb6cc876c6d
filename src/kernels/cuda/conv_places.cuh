// Places of the tokens around a block's tile, for kernels that work by original position. Deterministic. Cost:
// a read of the positions and of all offsets for each block, and a scan by one warp.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/view.h"

namespace tern::kernels {
namespace {

/// Tokens first .. first + count - 1, numbered from 0. Two tokens of one sequence less than `window` positions
/// apart are as far apart in `place`; all others, and rows that are no tokens, are at least `window` apart.
struct PlaceWindow {
  std::int64_t first;
  int count;
  int begin, end;  ///< of those that are tokens of a sequence
  int* place;
  int *low, *high;  ///< first and last token of the run of neighbouring positions that each belongs to

  /// Whether tokens from .. to have neighbouring positions in one sequence.
  __device__ bool is_gapless(int from, int to) const {
    return from >= begin && to < end && place[to] - place[from] == to - from;
  }
};
__host__ __device__ constexpr std::size_t place_bytes(int count) {
  return 5 * sizeof(int) * static_cast<std::size_t>(count);
}

/// How much further token k lies than token k - 1.
__device__ __forceinline__ int place_step(const PlaceWindow& window, const int* position, const int* starts,
                                          int k, int furthest) {
  if (k == 0) return 0;
  if (k <= window.begin || k >= window.end || starts[k] != 0) return furthest;
  const int step = position[k] - position[k - 1];
  return step < furthest ? step : furthest;
}

/// Fills place, low and high; each lane of one warp takes a range of tokens.
__device__ inline void scan_places(const PlaceWindow& window, const int* position, const int* starts,
                                   int furthest) {
  const int lane = static_cast<int>(threadIdx.x), share = (window.count + warp_lanes - 1) / warp_lanes;
  const int from = lane * share, to = from + share < window.count ? from + share : window.count;
  int sum = 0, low = 0, high = window.count;  // last and first break of the lane's tokens
  for (int k = from; k < to; ++k) {
    const int step = place_step(window, position, starts, k, furthest);
    sum += step;
    if (step == 1) continue;
    low = k;
    high = high == window.count ? k : high;
  }
  int before = sum, last_break = low, next_break = high;
  for (int step = 1; step < warp_lanes; step *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, before, step),
              earlier = __shfl_up_sync(0xFFFFFFFFu, last_break, step),
              later = __shfl_down_sync(0xFFFFFFFFu, next_break, step);
    if (lane >= step) before += other;
    if (lane >= step && earlier > last_break) last_break = earlier;
    if (lane + step < warp_lanes && later < next_break) next_break = later;
  }
  before -= sum;
  low = __shfl_up_sync(0xFFFFFFFFu, last_break, 1);
  high = __shfl_down_sync(0xFFFFFFFFu, next_break, 1);
  if (lane == 0) low = 0;
  if (lane == warp_lanes - 1) high = window.count;
  for (int k = from; k < to; ++k) {
    const int step = place_step(window, position, starts, k, furthest);
    if (step != 1) low = k;
    window.place[k] = before += step;
    window.low[k] = low;
  }
  for (int k = to - 1; k >= from; --k) {
    window.high[k] = high - 1;
    if (place_step(window, position, starts, k, furthest) != 1) high = k;
  }
}

/// `memory` has place_bytes(count). All threads of the block must call it.
__device__ inline PlaceWindow load_places(const Sequences& sequences, std::int64_t first, int count,
                                          int furthest, int* memory) {
  const std::int64_t tokens = sequences.offsets[sequences.count];
  PlaceWindow window{first, count, 0, 0, memory, memory + count, memory + 2 * count};
  int *const position = memory + 3 * count, *const starts = memory + 4 * count;
  window.begin = first < 0 ? static_cast<int>(-first) : 0;
  window.end = tokens - first < count ? static_cast<int>(tokens - first) : count;
  for (int k = static_cast<int>(threadIdx.x); k < count; k += static_cast<int>(blockDim.x)) {
    position[k] = k >= window.begin && k < window.end ? sequences.position[first + k] : 0;
    starts[k] = 0;
  }
  __syncthreads();
  for (std::int64_t s = threadIdx.x; s < sequences.count; s += blockDim.x) {
    const std::int64_t start = sequences.offsets[s] - first;
    if (start >= 0 && start < count) starts[start] = 1;
  }
  __syncthreads();
  if (threadIdx.x < warp_lanes) scan_places(window, position, starts, furthest);
  __syncthreads();
  return window;
}

}  // namespace
}  // namespace tern::kernels
