// Convolution over tokens and columns. A thread makes 8 outputs of one place at a time, with the filters of 16
// inputs in shared memory. The filters' gradients: a warp takes one input, four outputs and a chunk of tokens,
// and chunks are added in order. Deterministic. bfloat16 rows in packs go to grid_conv_tiles.cu.
#include <algorithm>

#include "kernels/cuda/grid_conv_tiles.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/ragged.cuh"
#include "kernels/grid_conv.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, block_warps = threads_per_block / warp_lanes;
constexpr int thread_outputs = 8, staged_inputs = 16;
constexpr int warp_outputs = 4, chunk_tokens = 64;

/// The element (token, channel, column) or its relu, 0 beyond the borders of the sequence and of the columns.
template <class T>
__device__ __forceinline__ Accumulate<T> element_or_zero(const Heads<const T>& x, bool of_relu,
                                                         const SequenceRange& range, int token, int channel,
                                                         int column) {
  const bool is_there =
      token >= range.begin && token < range.begin + range.length && column >= 0 && column < x.width;
  const Accumulate<T> value = is_there ? to_accumulate(row_of(x, token, channel)[column]) : Accumulate<T>(0);
  return of_relu && value <= 0 ? Accumulate<T>(0) : value;
}

/// Filters of some outputs and inputs in shared memory, 0 for those that are not there.
template <class A>
__device__ __forceinline__ void stage_filters(const GridFilters<A>& filters, int output, int input,
                                              A (&staged)[staged_inputs][grid_taps][thread_outputs]) {
  __syncthreads();
  for (int w = static_cast<int>(threadIdx.x); w < staged_inputs * grid_taps * thread_outputs;
       w += threads_per_block) {
    const int o = w % thread_outputs, tap = w / thread_outputs % grid_taps, c = w / thread_outputs / grid_taps;
    const bool is_there = output + o < filters.outputs && input + c < filters.inputs;
    const std::int64_t filter = std::int64_t{output + o} * filters.inputs + input + c;
    staged[c][tap][o] = is_there ? filters.weight[filter * grid_taps + tap] : A(0);
  }
  __syncthreads();
}

/// A thread takes place p, which is token p / width and column p % width; a block goes on together. y is 0
/// where `before`, if it has data, is not positive: the gradient of a relu.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    filter_places(Sequences sequences, Heads<const T> x, GridFilters<Accumulate<T>> filters,
                  const Accumulate<T>* bias, Heads<const T> before, T* y) {
  using A = Accumulate<T>;
  __shared__ A staged[staged_inputs][grid_taps][thread_outputs];
  const std::int64_t places = x.tokens * x.width, step = std::int64_t{gridDim.x} * threads_per_block;
  for (std::int64_t base = std::int64_t{blockIdx.x} * threads_per_block; base < places; base += step) {
    const std::int64_t place = base + threadIdx.x;
    const bool is_place = place < places;
    const int token = is_place ? static_cast<int>(place / x.width) : 0,
              column = is_place ? static_cast<int>(place % x.width) : 0;
    const SequenceRange range = find_sequence(sequences, token);
    const bool is_used = range.index < sequences.count;
    for (int output = 0; output < filters.outputs; output += thread_outputs) {
      A sums[thread_outputs];
#pragma unroll
      for (int o = 0; o < thread_outputs; ++o)
        sums[o] = bias != nullptr && output + o < filters.outputs ? bias[output + o] : A(0);
      for (int input = 0; input < filters.inputs; input += staged_inputs) {
        stage_filters(filters, output, input, staged);
        const int inputs = min(staged_inputs, filters.inputs - input);
        for (int c = 0; c < inputs; ++c)
#pragma unroll
          for (int tap = 0; tap < grid_taps; ++tap) {
            const A value = element_or_zero(x, filters.of_relu, range, token + tap / 3 - 1, input + c,
                                            column + tap % 3 - 1);
#pragma unroll
            for (int o = 0; o < thread_outputs; ++o) sums[o] += staged[c][tap][o] * value;
          }
      }
#pragma unroll
      for (int o = 0; o < thread_outputs; ++o)
        if (is_place && output + o < filters.outputs) {
          const bool passes = is_used && (before.data == nullptr ||
                                          !(to_accumulate(row_of(before, token, output + o)[column]) <= 0));
          y[(std::int64_t{token} * filters.outputs + output + o) * x.width + column] =
              from_accumulate<T>(passes ? sums[o] : A(0));
        }
    }
  }
}

/// turned[i, o, tap] = weight[o, i, taps - 1 - tap].
template <class A>
__global__ void __launch_bounds__(threads_per_block) turn_filters(GridFilters<A> filters, A* turned) {
  const std::int64_t count = std::int64_t{filters.outputs} * filters.inputs * grid_taps;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t tap = i % grid_taps, output = i / grid_taps % filters.outputs,
                       input = i / grid_taps / filters.outputs;
    turned[i] = filters.weight[(output * filters.inputs + input) * grid_taps + grid_taps - 1 - tap];
  }
}

/// The sums of one chunk of tokens: partial[chunk] holds the weights' gradient and behind it the bias's. A warp
/// does what its number says: chunk, outputs, input.
template <class T>
__global__ void __launch_bounds__(threads_per_block)
    sum_chunks(Sequences sequences, Heads<const T> x, bool of_relu, Heads<const T> dy, std::int64_t chunks,
               Accumulate<T>* partial) {
  using A = Accumulate<T>;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, inputs = x.heads, outputs = dy.heads;
  const std::int64_t weights = std::int64_t{outputs} * inputs * grid_taps, sums = weights + outputs;
  const int groups = (outputs + warp_outputs - 1) / warp_outputs;
  const std::int64_t task = thread_index() / warp_lanes;
  if (task >= chunks * groups * inputs) return;
  const int input = static_cast<int>(task % inputs),
            output = static_cast<int>(task / inputs % groups) * warp_outputs;
  const std::int64_t chunk = task / inputs / groups, first = chunk * chunk_tokens;
  const std::int64_t last = min(first + chunk_tokens, std::int64_t{sequences.offsets[sequences.count]});
  A products[warp_outputs][grid_taps] = {}, totals[warp_outputs] = {};
  for (std::int64_t token = first; token < last; ++token) {
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    for (int column = lane; column < x.width; column += warp_lanes) {
      A d[warp_outputs];
#pragma unroll
      for (int o = 0; o < warp_outputs; ++o) {
        d[o] = output + o < outputs ? to_accumulate(row_of(dy, token, output + o)[column]) : A(0);
        totals[o] += d[o];
      }
#pragma unroll
      for (int tap = 0; tap < grid_taps; ++tap) {
        const A value = element_or_zero(x, of_relu, range, static_cast<int>(token) + tap / 3 - 1, input,
                                        column + tap % 3 - 1);
#pragma unroll
        for (int o = 0; o < warp_outputs; ++o) products[o][tap] += d[o] * value;
      }
    }
  }
  A* const to = partial + chunk * sums;
#pragma unroll
  for (int o = 0; o < warp_outputs; ++o) {
#pragma unroll
    for (int tap = 0; tap < grid_taps; ++tap) {
      const A total = warp_sum(products[o][tap]);
      if (lane == 0 && output + o < outputs)
        to[(std::int64_t{output + o} * inputs + input) * grid_taps + tap] = total;
    }
    const A total = warp_sum(totals[o]);
    if (lane == 0 && input == 0 && output + o < outputs) to[weights + output + o] = total;
  }
}

template <class T>
void launch_filters(Cuda& cuda, const Sequences& sequences, const Heads<const T>& x,
                    const GridFilters<Accumulate<T>>& filters, const Accumulate<T>* bias,
                    const Heads<const T>& before, T* y) {
  const std::int64_t places = x.tokens * x.width;
  filter_places<T><<<grid_for(cuda, places, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      sequences, x, filters, bias, before, y);
  check_launch("grid_conv");
}

}  // namespace

template <class T>
void grid_conv_forward(Cuda& cuda, const Sequences& sequences, Heads<const T> x,
                       const GridFilters<Accumulate<T>>& filters, const Accumulate<T>* bias, T* y) {
  if (x.tokens * x.width * filters.outputs == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_conv_tiles(x) && is_aligned(16, y)) return filter_tiled(cuda, sequences, x, filters, bias, y);
  }
  launch_filters(cuda, sequences, x, filters, bias, {}, y);
}

template <class T>
void grid_conv_backward(Cuda& cuda, const Sequences& sequences, Heads<const T> x,
                        const GridFilters<Accumulate<T>>& filters, Heads<const T> dy,
                        const GridGradients<T, Accumulate<T>>& gradients) {
  using A = Accumulate<T>;
  const std::int64_t weights = std::int64_t{filters.outputs} * filters.inputs * grid_taps;
  if (weights == 0 || x.tokens * x.width == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_conv_tiles(x) && fits_conv_tiles(dy) && is_aligned(16, gradients.dx)) {
      if (gradients.dx != nullptr) filter_back_tiled(cuda, sequences, x, filters, dy, gradients.dx);
      if (gradients.dweight != nullptr)
        sum_filters_tiled(cuda, sequences, x, filters.of_relu, dy, gradients.dweight, gradients.dbias);
      return;
    }
  }
  if (gradients.dx != nullptr) {
    const Scratch<A> turned(cuda, weights);
    turn_filters<A><<<grid_for(cuda, weights, threads_per_block), threads_per_block, 0, cuda.stream>>>(
        filters, turned.data());
    check_launch("turn_filters");
    const GridFilters<A> back{turned.data(), filters.inputs, filters.outputs};
    launch_filters<T>(cuda, sequences, dy, back, nullptr, filters.of_relu ? x : Heads<const T>{}, gradients.dx);
  }
  if (gradients.dweight == nullptr) return;
  const std::int64_t chunks = (x.tokens + chunk_tokens - 1) / chunk_tokens,
                     groups = (filters.outputs + warp_outputs - 1) / warp_outputs,
                     tasks = chunks * groups * filters.inputs;
  const Scratch<A> partial(cuda, chunks * (weights + filters.outputs));
  const auto blocks = static_cast<unsigned>((tasks + block_warps - 1) / block_warps);
  sum_chunks<T><<<blocks, threads_per_block, 0, cuda.stream>>>(sequences, x, filters.of_relu, dy, chunks,
                                                               partial.data());
  check_launch("grid_conv_backward");
  add_partial_sums(cuda, partial.data(), chunks, gradients.dweight, weights, gradients.dbias,
                   std::int64_t{filters.outputs});
}

#define INSTANTIATE(T)                                                                             \
  template void grid_conv_forward<T>(Cuda&, const Sequences&, Heads<const T>,                      \
                                     const GridFilters<Accumulate<T>>&, const Accumulate<T>*, T*); \
  template void grid_conv_backward<T>(Cuda&, const Sequences&, Heads<const T>,                     \
                                      const GridFilters<Accumulate<T>>&, Heads<const T>,           \
                                      const GridGradients<T, Accumulate<T>>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
