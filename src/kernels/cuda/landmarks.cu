// Means of segments, and softmaxes of rows over a sequence's landmarks. Deterministic. A warp takes a landmark,
// a token or a row; lanes take pairs of columns where alignment allows.
#include <cmath>
#include <limits>

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/landmarks.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % warp_lanes; }
__device__ __forceinline__ std::int64_t warp_of_grid() { return thread_index() / warp_lanes; }
__device__ __forceinline__ std::int64_t grid_warps() { return grid_threads() / warp_lanes; }

/// Landmark i of sequence s and head h by the warp s * heads * landmarks + h * landmarks + i.
template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    mean_segments(Sequences sequences, Heads<const T> x, int landmarks, Accumulate<T>* means) {
  using A = Accumulate<T>;
  const std::int64_t count = sequences.count * x.heads * landmarks;
  for (std::int64_t r = warp_of_grid(); r < count; r += grid_warps()) {
    const int i = static_cast<int>(r % landmarks), head = static_cast<int>(r / landmarks % x.heads);
    const SequenceRange range = sequence_range(sequences, static_cast<int>(r / landmarks / x.heads));
    const int used = landmarks_of(range.length, landmarks);
    const bool is_there = i < used;
    const int begin = is_there ? segment_begin(i, range.length, used) : 0,
              end = is_there ? segment_begin(i + 1, range.length, used) : 0;
    const A share = is_there ? A(1) / static_cast<A>(end - begin) : A(0);
    for (int c = lane_of_thread() * items; c < x.width; c += warp_lanes * items) {
      A sums[items] = {};
#pragma unroll 4
      for (int place = begin; place < end; ++place) {
        const Pack<T, items> pack = load_pack<items>(row_of(x, range.begin + place, head) + c);
#pragma unroll
        for (int e = 0; e < items; ++e) sums[e] += to_accumulate(pack.item[e]);
      }
#pragma unroll
      for (int e = 0; e < items; ++e) means[r * x.width + c + e] = sums[e] * share;
    }
  }
}

/// The gradients of a token's rows; dx is packed.
template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    spread_means(Sequences sequences, int landmarks, const Accumulate<T>* dmeans, Heads<T> dx) {
  using A = Accumulate<T>;
  for (std::int64_t token = warp_of_grid(); token < dx.tokens; token += grid_warps()) {
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    const bool is_used = range.index < sequences.count;
    const int used = landmarks_of(range.length, landmarks), place = static_cast<int>(token) - range.begin;
    const int i = is_used ? segment_of(place, range.length, used) : 0;
    const A share = is_used ? A(1) / static_cast<A>(segment_begin(i + 1, range.length, used) -
                                                    segment_begin(i, range.length, used))
                            : A(0);
    for (int c = lane_of_thread() * items; c < dx.heads * dx.width; c += warp_lanes * items) {
      const int head = c / dx.width, column = c % dx.width;
      Pack<T, items> out{};
      if (is_used) {
        const A* from =
            dmeans + ((std::int64_t{range.index} * dx.heads + head) * landmarks + i) * dx.width + column;
#pragma unroll
        for (int e = 0; e < items; ++e) out.item[e] = from_accumulate<T>(share * from[e]);
      }
      store_pack(row_of(dx, token, head) + column, out);
    }
  }
}

/// Softmax of the first `used` of `width` entries by a warp, zeros behind them.
template <int items, class T>
__device__ __forceinline__ void softmax_row(const T* x, int used, int width, T* y) {
  using A = Accumulate<T>;
  const int first = lane_of_thread() * items;
  A largest = -std::numeric_limits<A>::infinity(), total = 0;
  const auto for_entries = [&](const auto& body) {
    for (int c = first; c < used; c += warp_lanes * items) {
      const Pack<T, items> pack = load_pack<items>(x + c);
#pragma unroll
      for (int e = 0; e < items; ++e)
        if (c + e < used) body(to_accumulate(pack.item[e]));
    }
  };
  for_entries([&](A value) { largest = value > largest ? value : largest; });
  largest = warp_max(largest);
  for_entries([&](A value) { total += std::exp(value - largest); });
  const A scale = A(1) / warp_sum(total);
  for (int c = first; c < width; c += warp_lanes * items) {
    Pack<T, items> pack = load_pack<items>(x + c);
#pragma unroll
    for (int e = 0; e < items; ++e)
      pack.item[e] =
          from_accumulate<T>(c + e < used ? std::exp(to_accumulate(pack.item[e]) - largest) * scale : A(0));
    store_pack(y + c, pack);
  }
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    softmax_of_tokens(Sequences sequences, Heads<const T> x, Heads<T> y) {
  for (std::int64_t token = warp_of_grid(); token < x.tokens; token += grid_warps()) {
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    for (int head = 0; head < x.heads; ++head) {
      T* const to = row_of(y, token, head);
      if (range.index < sequences.count)
        softmax_row<items>(row_of(x, token, head), landmarks_of(range.length, x.width), x.width, to);
      else
        for (int c = lane_of_thread(); c < x.width; c += warp_lanes) to[c] = from_accumulate<T>(0);
    }
  }
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    softmax_of_landmarks(Sequences sequences, int heads, int landmarks, const T* x, T* y) {
  const std::int64_t rows = sequences.count * heads * landmarks;
  for (std::int64_t r = warp_of_grid(); r < rows; r += grid_warps()) {
    const SequenceRange range = sequence_range(sequences, static_cast<int>(r / landmarks / heads));
    const int own = static_cast<int>(r % landmarks);
    if (range.length > landmarks)
      softmax_row<items>(x + r * landmarks, landmarks, landmarks, y + r * landmarks);
    else
      for (int c = lane_of_thread(); c < landmarks; c += warp_lanes)
        y[r * landmarks + c] = from_accumulate<T>(c == own ? 1 : 0);
  }
}

unsigned warps_for(const Cuda& cuda, std::int64_t warps) {
  return grid_for(cuda, warps * warp_lanes, threads_per_block, 16);
}

}  // namespace

template <class T>
void segment_means_forward(Cuda& cuda, const Sequences& sequences, Heads<const T> x, int landmarks,
                           Accumulate<T>* means) {
  const std::int64_t count = sequences.count * x.heads * landmarks;
  if (count * x.width == 0) return;
  const auto kernel = rows_move_by(x, 2) ? mean_segments<2, T> : mean_segments<1, T>;
  kernel<<<warps_for(cuda, count), threads_per_block, 0, cuda.stream>>>(sequences, x, landmarks, means);
  check_launch("segment_means_forward");
}

template <class T>
void segment_means_backward(Cuda& cuda, const Sequences& sequences, int landmarks, const Accumulate<T>* dmeans,
                            Heads<T> dx) {
  if (dx.tokens * dx.heads * dx.width == 0) return;
  const auto kernel = rows_move_by(dx, 2) ? spread_means<2, T> : spread_means<1, T>;
  kernel<<<warps_for(cuda, dx.tokens), threads_per_block, 0, cuda.stream>>>(sequences, landmarks, dmeans, dx);
  check_launch("segment_means_backward");
}

template <class T>
void softmax_over_landmarks(Cuda& cuda, const Sequences& sequences, Heads<const T> x, Heads<T> y) {
  if (x.tokens * x.heads * x.width == 0) return;
  const auto kernel =
      rows_move_by(x, 2) && rows_move_by(y, 2) ? softmax_of_tokens<2, T> : softmax_of_tokens<1, T>;
  kernel<<<warps_for(cuda, x.tokens), threads_per_block, 0, cuda.stream>>>(sequences, x, y);
  check_launch("softmax_over_landmarks");
}

template <class T>
void softmax_between_landmarks(Cuda& cuda, const Sequences& sequences, int heads, int landmarks, const T* x,
                               T* y) {
  const std::int64_t rows = sequences.count * heads * landmarks;
  if (rows == 0) return;
  const bool has_pairs = landmarks % 2 == 0 && is_aligned(2 * sizeof(T), x, y);
  const auto kernel = has_pairs ? softmax_of_landmarks<2, T> : softmax_of_landmarks<1, T>;
  kernel<<<warps_for(cuda, rows), threads_per_block, 0, cuda.stream>>>(sequences, heads, landmarks, x, y);
  check_launch("softmax_between_landmarks");
}

#define INSTANTIATE(T)                                                                                   \
  template void segment_means_forward<T>(Cuda&, const Sequences&, Heads<const T>, int, Accumulate<T>*);  \
  template void segment_means_backward<T>(Cuda&, const Sequences&, int, const Accumulate<T>*, Heads<T>); \
  template void softmax_over_landmarks<T>(Cuda&, const Sequences&, Heads<const T>, Heads<T>);            \
  template void softmax_between_landmarks<T>(Cuda&, const Sequences&, int, int, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
