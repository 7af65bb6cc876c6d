// Gradient norm and AdamW. Deterministic: a block sums a chunk, one block adds the chunks, both in a fixed
// order. Memory-bound: measure_gradient reads the gradient once (two launches), adamw reads four arrays and
// writes three in one launch.
#include <cmath>
#include <limits>

#include "kernels/cuda/block.cuh"
#include "kernels/update.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, finish_threads = 1024;
constexpr double smallest_square = 1e-24;  ///< of a row that is given length 1

/// Calls body(place, integral constant items) for this thread's share of a chunk: packs of `items` where the
/// place in the flat block is a multiple of it, single elements before and behind.
template <int items, class Body>
__device__ __forceinline__ void for_elements(const UpdateChunk& chunk, bool is_packed, const Body& body) {
  const std::int64_t last = chunk.first + chunk.count;
  std::int64_t begin = std::min(last, (chunk.first + items - 1) / items * items), end = last / items * items;
  if (!is_packed || end < begin) begin = end = last;
  for (std::int64_t i = chunk.first + threadIdx.x; i < begin; i += threads_per_block)
    body(i, std::integral_constant<int, 1>{});
#pragma unroll 2
  for (std::int64_t i = begin + std::int64_t{threadIdx.x} * items; i < end; i += threads_per_block * items)
    body(i, std::integral_constant<int, items>{});
  for (std::int64_t i = end + threadIdx.x; i < last; i += threads_per_block)
    body(i, std::integral_constant<int, 1>{});
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    chunk_squares_kernel(UpdateChunks chunks, const T* gradient, bool is_packed, double* squares) {
  __shared__ double shared[warp_lanes];
  for (std::int64_t c = blockIdx.x; c < chunks.count; c += gridDim.x) {
    double total = 0;
    for_elements<pack_items<T>>(chunks.chunks[c], is_packed, [&](std::int64_t i, auto items) {
      const auto pack = load_pack<items>(gradient + i);
#pragma unroll
      for (int e = 0; e < items; ++e)
        total += static_cast<double>(pack.item[e]) * static_cast<double>(pack.item[e]);
    });
    total = block_sum(total, shared);
    if (threadIdx.x == 0) squares[c] = total;
  }
}

/// What a step does with the gradient whose sum of squares is `total`; `largest` is that of the parameters'
/// type.
__device__ void judge_gradient(double total, const AdamSettings& settings, double largest, StepState* state) {
  const double mean = 1 / std::max(state->score.examples, 1.0);
  const double norm = mean * std::sqrt(total);
  const bool is_clipped = settings.clip_norm > 0 && norm > settings.clip_norm;
  const double applied_norm = is_clipped ? settings.clip_norm : norm;
  // The square goes into the second moment and must not overflow there.
  const bool is_finite =
      std::isfinite(norm) && std::isfinite(state->score.loss) && applied_norm * applied_norm <= largest;
  state->gradient_norm = norm;
  state->is_finite = is_finite;
  if (!is_finite) return;
  state->gradient_scale = is_clipped ? mean * settings.clip_norm / norm : mean;
  state->updates += 1;
}

__global__ void __launch_bounds__(finish_threads)
    judge_gradient_kernel(std::int64_t count, const double* squares, AdamSettings settings, double largest,
                          StepState* state) {
  __shared__ double shared[warp_lanes];
  double total = 0;
#pragma unroll 4
  for (std::int64_t c = threadIdx.x; c < count; c += finish_threads) total += squares[c];
  total = block_sum(total, shared);
  if (threadIdx.x == 0) judge_gradient(total, settings, largest, state);
}

/// The scalars of one update in the parameters' type.
template <class T>
struct AdamScalars {
  T beta1, beta2, rest1, rest2, epsilon, shrink, scale, rate, root;
};
template <class T>
__device__ AdamScalars<T> adam_scalars(const AdamSettings& settings, const StepState& state) {
  const auto count = static_cast<double>(state.updates);
  const double correction1 = 1 - std::pow(state.beta1, count),
               correction2 = 1 - std::pow(settings.beta2, count);
  return {static_cast<T>(state.beta1),
          static_cast<T>(settings.beta2),
          static_cast<T>(1 - state.beta1),
          static_cast<T>(1 - settings.beta2),
          static_cast<T>(settings.epsilon),
          static_cast<T>(1 - state.learning_rate * settings.weight_decay),
          static_cast<T>(state.gradient_scale),
          static_cast<T>(state.learning_rate / correction1),
          static_cast<T>(1 / std::sqrt(correction2))};
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    adamw_kernel(UpdateChunks chunks, AdamSettings settings, const StepState* state, AdamBlocks<T> blocks,
                 bool is_packed) {
  if (!state->is_finite) return;
  __shared__ AdamScalars<T> shared;
  if (threadIdx.x == 0) shared = adam_scalars<T>(settings, *state);
  __syncthreads();
  const AdamScalars<T> s = shared;
  for (std::int64_t c = blockIdx.x; c < chunks.count; c += gridDim.x) {
    const UpdateChunk chunk = chunks.chunks[c];
    const T shrink = chunk.decays ? s.shrink : T(1);
    for_elements<pack_items<T>>(chunk, is_packed, [&](std::int64_t i, auto items) {
      const auto gradient = load_pack<items>(blocks.gradient + i);
      auto m = load_pack<items>(blocks.m + i), v = load_pack<items>(blocks.v + i),
           w = load_pack<items>(blocks.w + i);
      Pack<bfloat16, items> rounded;
#pragma unroll
      for (int e = 0; e < items; ++e) {
        const T g = gradient.item[e] * s.scale;
        m.item[e] = s.beta1 * m.item[e] + s.rest1 * g;
        v.item[e] = s.beta2 * v.item[e] + s.rest2 * g * g;
        w.item[e] = w.item[e] * shrink - s.rate * m.item[e] / (std::sqrt(v.item[e]) * s.root + s.epsilon);
        rounded.item[e] = from_accumulate<bfloat16>(static_cast<float>(w.item[e]));
      }
      store_pack(blocks.m + i, m);
      store_pack(blocks.v + i, v);
      store_pack(blocks.w + i, w);
      if (blocks.rounded != nullptr) store_pack(blocks.rounded + i, rounded);
    });
  }
}

/// A block for each row.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    average_directions_kernel(const StepState* state, AveragedRows<T> rows) {
  if (!state->is_finite) return;
  __shared__ double shared[warp_lanes];
  for (std::int64_t r = blockIdx.x; r < rows.rows; r += gridDim.x) {
    const T* const g = rows.gradient + r * rows.width;
    T* const w = rows.w + r * rows.width;
    double total = 0;
    for (std::int64_t c = threadIdx.x; c < rows.width; c += threads_per_block)
      total += static_cast<double>(g[c]) * static_cast<double>(g[c]);
    const double length = std::sqrt(block_sum(total, shared));
    if (!(length > 0 && std::isfinite(length))) continue;
    const double step = (1 - rows.decay) / length;
    total = 0;
    for (std::int64_t c = threadIdx.x; c < rows.width; c += threads_per_block) {
      const T moved = static_cast<T>(rows.decay * static_cast<double>(w[c]) - step * static_cast<double>(g[c]));
      w[c] = moved;
      total += static_cast<double>(moved) * static_cast<double>(moved);
    }
    const double square = block_sum(total, shared);
    const double scale = 1 / std::sqrt(square > smallest_square ? square : smallest_square);
    for (std::int64_t c = threadIdx.x; c < rows.width; c += threads_per_block)
      w[c] = static_cast<T>(scale * static_cast<double>(w[c]));
  }
}

}  // namespace

template <class T>
void measure_gradient(Cuda& cuda, const UpdateChunks& chunks, const AdamSettings& settings, const T* gradient,
                      double* squares, StepState* state) {
  if (chunks.count > 0) {
    chunk_squares_kernel<T><<<grid_for(cuda, chunks.count, 1), threads_per_block, 0, cuda.stream>>>(
        chunks, gradient, is_aligned(16, gradient), squares);
    check_launch("measure_gradient");
  }
  judge_gradient_kernel<<<1, finish_threads, 0, cuda.stream>>>(
      chunks.count, squares, settings, static_cast<double>(std::numeric_limits<T>::max()), state);
  check_launch("measure_gradient");
}

template <class T>
void adamw(Cuda& cuda, const UpdateChunks& chunks, const AdamSettings& settings, const StepState* state,
           const AdamBlocks<T>& blocks) {
  if (chunks.count == 0) return;
  const bool is_packed =
      is_aligned(16, blocks.gradient, blocks.m, blocks.v, blocks.w) && is_aligned(8, blocks.rounded);
  adamw_kernel<T><<<grid_for(cuda, chunks.count, 1), threads_per_block, 0, cuda.stream>>>(
      chunks, settings, state, blocks, is_packed);
  check_launch("adamw");
}

template <class T>
void average_directions(Cuda& cuda, const StepState* state, const AveragedRows<T>& rows) {
  if (rows.rows * rows.width == 0) return;
  average_directions_kernel<T>
      <<<grid_for(cuda, rows.rows, 1), threads_per_block, 0, cuda.stream>>>(state, rows);
  check_launch("average_directions");
}

#define INSTANTIATE(T)                                                                                  \
  template void measure_gradient<T>(Cuda&, const UpdateChunks&, const AdamSettings&, const T*, double*, \
                                    StepState*);                                                        \
  template void adamw<T>(Cuda&, const UpdateChunks&, const AdamSettings&, const StepState*,             \
                         const AdamBlocks<T>&);                                                         \
  template void average_directions<T>(Cuda&, const StepState*, const AveragedRows<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
