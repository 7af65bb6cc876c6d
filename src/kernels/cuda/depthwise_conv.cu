// Convolution along sequences. Deterministic. bfloat16 takes tensor cores where it can (conv_products.cuh).
// Otherwise a warp takes eight neighbouring tokens (forward, dx) or eight neighbouring taps (dweight), a lane
// one column of a head. Where positions have no gap, weights or rows slide through registers and a load serves
// eight products; elsewhere pairs of tokens look their tap up. Cost: tokens * window * width products, memory
// is read through the first-level cache.
#include "kernels/cuda/conv_places.cuh"
#include "kernels/cuda/conv_products.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/depthwise_conv.h"

namespace tern::kernels {
namespace {

constexpr int conv_threads = 256, conv_warps = conv_threads / warp_lanes;
constexpr int run = 8;                         ///< tokens or taps of a warp
constexpr int tile_tokens = run * conv_warps;  ///< tokens of a block, forward and dx
constexpr int strip_tokens = 32, strips = 4;   ///< tokens of a unit of work and units of a block, dweight
constexpr int correlate_tokens = strips * strip_tokens;

/// total[i] += sum over k < count of weight[k - i] x[k], where x[k] lies at rows + k * stride. `weight` is
/// padded with zeros.
template <class T, class A>
__device__ __forceinline__ void add_gapless(const T* rows, std::int64_t stride, int count, const A* weight,
                                            A (&total)[run]) {
  A taps[2 * run - 1];
#pragma unroll
  for (int k = 0; k < run - 1; ++k) taps[k] = weight[k - run + 1];
  for (int first = 0; first < count; first += run) {
    A x[run];
#pragma unroll
    for (int k = 0; k < run; ++k) x[k] = first + k < count ? to_accumulate(rows[k * stride]) : A(0);
    rows += run * stride;
#pragma unroll
    for (int k = 0; k < run; ++k) taps[run - 1 + k] = weight[first + k];
#pragma unroll
    for (int k = 0; k < run; ++k)
#pragma unroll
      for (int i = 0; i < run; ++i) total[i] += taps[run - 1 + k - i] * x[k];
#pragma unroll
    for (int k = 0; k < run - 1; ++k) taps[k] = taps[run + k];
  }
}

/// Adds token j of the window to the sums of tokens own .. own + 7, by their places. Returns whether j is near
/// enough to one of them.
template <class T, class A>
__device__ __forceinline__ bool add_by_place(const PlaceWindow& window, int j, const int (&places)[run],
                                             int half, const T* x, const A* weight, A (&total)[run]) {
  const int place = window.place[j];
  if (place < places[0] - half || place > places[run - 1] + half) return false;
  const A value = to_accumulate(*x);
#pragma unroll
  for (int i = 0; i < run; ++i) {
    const int distance = place - places[i];
    if (distance >= -half && distance <= half) total[i] += weight[distance] * value;
  }
  return true;
}

/// The sums of tokens own .. own + 7 of the window; `rows` is the row of the window's token 0.
template <class T, class A>
__device__ __forceinline__ void convolve_run(const PlaceWindow& window, int own, int half, const T* rows,
                                             std::int64_t stride, const A* weight, A (&total)[run]) {
  const int first = own - half > window.begin ? own - half : window.begin,
            last = own + run + half < window.end ? own + run - 1 + half : window.end - 1;
  int places[run];
#pragma unroll
  for (int i = 0; i < run; ++i) places[i] = window.place[own + i];
  int low = own, high = own - 1;  // tokens low .. high are done without looking at places
  if (window.is_gapless(own, own + run - 1)) {
    low = window.low[own] > first ? window.low[own] : first;
    high = window.high[own] < last ? window.high[own] : last;
    add_gapless(rows + low * stride, stride, high - low + 1, weight + (low - own), total);
  }
  for (int j = low - 1; j >= first; --j)
    if (!add_by_place(window, j, places, half, rows + j * stride, weight, total)) break;
  for (int j = high + 1; j <= last; ++j)
    if (!add_by_place(window, j, places, half, rows + j * stride, weight, total)) break;
}

/// Block (x, y): tile x, head y. y_i = sum over j of weight[half + place of j - place of i] x_j, or with the
/// weights reversed.
template <class T>
__global__ void __launch_bounds__(conv_threads)
    convolve(Sequences sequences, Heads<const T> x, const Accumulate<T>* weight, int window, bool is_reversed,
             T* y) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char conv_bytes[];
  const int half = window / 2, lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes, head = static_cast<int>(blockIdx.y);
  A* const padded = reinterpret_cast<A*>(conv_bytes);
  for (int u = static_cast<int>(threadIdx.x); u < window + 4 * run; u += conv_threads) {
    const int tap = is_reversed ? window - 1 - (u - 2 * run) : u - 2 * run;
    padded[u] = tap >= 0 && tap < window ? weight[head * window + tap] : A(0);
  }
  const std::int64_t tile = std::int64_t{blockIdx.x} * tile_tokens, own = tile + warp * run;
  const PlaceWindow places = load_places(sequences, tile - half, tile_tokens + 2 * half, window + 1,
                                         reinterpret_cast<int*>(padded + window + 4 * run));
  for (int first = 0; first < x.width; first += warp_lanes) {
    const int column = first + lane < x.width ? first + lane : x.width - 1;
    A total[run] = {};
    convolve_run(places, half + warp * run, half,
                 x.data + places.first * x.token_stride + head * x.head_stride + column, x.token_stride,
                 padded + 2 * run + half, total);
    if (first + lane >= x.width) continue;
#pragma unroll
    for (int i = 0; i < run; ++i)
      if (own + i < x.tokens)
        y[((own + i) * x.heads + head) * x.width + column] =
            from_accumulate<T>(half + warp * run + i < places.end ? total[i] : A(0));
  }
}

/// One column of the rows of a window: element of token k at x + k * x_stride.
template <class T>
struct ColumnPair {
  const T *x, *dy;
  std::int64_t x_stride, dy_stride;
};

/// sums[k] += sum over the strip's tokens i of dy(i) x(i + offset + k), x from tokens low .. high only.
template <class T, class A>
__device__ __forceinline__ void correlate_gapless(const ColumnPair<T>& columns, int strip, int offset, int low,
                                                  int high, A (&sums)[run]) {
  const auto load = [&](int token) {
    return token >= low && token <= high ? to_accumulate(columns.x[token * columns.x_stride]) : A(0);
  };
  A x[2 * run - 1];
#pragma unroll
  for (int k = 0; k < run - 1; ++k) x[k] = load(strip + offset + k);
  for (int first = strip; first < strip + strip_tokens; first += run) {
    A d[run];
#pragma unroll
    for (int i = 0; i < run; ++i) d[i] = to_accumulate(columns.dy[(first + i) * columns.dy_stride]);
#pragma unroll
    for (int k = 0; k < run; ++k) x[run - 1 + k] = load(first + offset + run - 1 + k);
#pragma unroll
    for (int i = 0; i < run; ++i)
#pragma unroll
      for (int k = 0; k < run; ++k) sums[k] += d[i] * x[i + k];
#pragma unroll
    for (int k = 0; k < run - 1; ++k) x[k] = x[run + k];
  }
}

/// The same by places, x from tokens first .. last but not from low .. high.
template <class T, class A>
__device__ __forceinline__ void correlate_by_place(const PlaceWindow& window, const ColumnPair<T>& columns,
                                                   int strip, int offset, int first, int last, int low,
                                                   int high, A (&sums)[run]) {
  int j = first;
  for (int i = strip; i < strip + strip_tokens && i < window.end; ++i) {
    const int wanted = window.place[i] + offset;
    while (j <= last && window.place[j] < wanted) ++j;
    if (j > last) return;
    if (window.place[j] >= wanted + run || (j >= low && high - j >= run - 1)) continue;
    const A d = to_accumulate(columns.dy[i * columns.dy_stride]);
    A x[run];
#pragma unroll
    for (int k = 0; k < run; ++k) {
      // at most run tokens have places in the range, and they are neighbours
      const int token = j + k;
      x[k] = token <= last && (token < low || token > high) && window.place[token] < wanted + run
                 ? to_accumulate(columns.x[token * columns.x_stride])
                 : A(0);
    }
#pragma unroll
    for (int k = 0; k < run; ++k) {
      const int tap = j + k <= last ? window.place[j + k] - wanted : run;
#pragma unroll
      for (int t = k; t < run; ++t) sums[t] += tap == t ? d * x[k] : A(0);
    }
  }
}

/// Sum of sums[k] over the warp, for k = the three upper bits of the lane.
template <class A>
__device__ __forceinline__ A sum_eight(A (&sums)[run]) {
  const unsigned lane = threadIdx.x % warp_lanes;
#pragma unroll
  for (int kept = run / 2, step = 16; kept > 0; kept /= 2, step /= 2)
#pragma unroll
    for (int k = 0; k < kept; ++k) {
      const bool is_upper = (lane & step) != 0;
      const A mine = is_upper ? sums[k + kept] : sums[k], other = is_upper ? sums[k] : sums[k + kept];
      sums[k] = mine + __shfl_xor_sync(0xFFFFFFFFu, other, step);
    }
  return warp_sum(sums[0], 4);
}

/// Block (x, y): partial[x, y, :] = what the tokens of tile x add to the weights of head y. A warp takes eight
/// taps over one strip of tokens at a time.
template <class T>
__global__ void __launch_bounds__(conv_threads)
    correlate(Sequences sequences, Heads<const T> x, int window, const T* dy, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char conv_bytes[];
  const int half = window / 2, lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes, head = static_cast<int>(blockIdx.y);
  const int groups = (window + run - 1) / run;
  A* const strip_sums = reinterpret_cast<A*>(conv_bytes);  // [strips, groups * run]
  const PlaceWindow places =
      load_places(sequences, std::int64_t{blockIdx.x} * correlate_tokens - half, correlate_tokens + 2 * half,
                  window + 1, reinterpret_cast<int*>(strip_sums + strips * groups * run));
  const ColumnPair<T> head_columns{x.data + places.first * x.token_stride + head * x.head_stride,
                                   dy + (places.first * x.heads + head) * x.width, x.token_stride,
                                   std::int64_t{x.heads} * x.width};
  for (int unit = warp; unit < groups * strips; unit += conv_warps) {
    const int group = unit % groups, strip = half + unit / groups * strip_tokens, offset = group * run - half;
    const int last = strip + strip_tokens - 1 + half < places.end ? strip + strip_tokens - 1 + half
                                                                  : places.end - 1,
              first = strip - half > places.begin ? strip - half : places.begin;
    const bool is_gapless = places.is_gapless(strip, strip + strip_tokens - 1);
    const int low = !is_gapless                 ? 0
                    : places.low[strip] > first ? places.low[strip]
                                                : first,
              high = !is_gapless                 ? -1
                     : places.high[strip] < last ? places.high[strip]
                                                 : last;
    A sums[run] = {};
    for (int column = lane; column < x.width; column += warp_lanes) {
      const ColumnPair<T> columns{head_columns.x + column, head_columns.dy + column, head_columns.x_stride,
                                  head_columns.dy_stride};
      if (is_gapless) correlate_gapless(columns, strip, offset, low, high, sums);
      if (!is_gapless || low > first || high < last)
        correlate_by_place(places, columns, strip, offset, first, last, low, high, sums);
    }
    __syncwarp();
    const A sum = sum_eight(sums);
    if (lane % 4 == 0) strip_sums[unit * run + lane / 4] = sum;
  }
  __syncthreads();
  for (int tap = static_cast<int>(threadIdx.x); tap < window; tap += conv_threads) {
    A total = 0;
#pragma unroll
    for (int s = 0; s < strips; ++s) total += strip_sums[s * groups * run + tap];
    partial[(std::int64_t{blockIdx.x} * x.heads + head) * window + tap] = total;
  }
}

/// Lets blocks of `kernel` use `bytes` of shared memory.
void allow_shared(const Cuda& cuda, const void* kernel, int window, std::size_t bytes) {
  require(bytes <= static_cast<std::size_t>(cuda.shared_memory),
          "depthwise_conv: a window of {} needs more shared memory than a block has; use a smaller window",
          window);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "depthwise_conv");
}

template <class T>
void launch_convolve(Cuda& cuda, const Sequences& sequences, const Heads<const T>& x,
                     const Accumulate<T>* weight, int window, bool is_reversed, T* y) {
  if (x.tokens == 0 || x.heads == 0 || x.width == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_band(x, window) && is_aligned(16, y))
      return convolve_on_tensor_cores(cuda, sequences, x, weight, window, is_reversed, y);
  }
  const dim3 blocks(static_cast<unsigned>((x.tokens + tile_tokens - 1) / tile_tokens),
                    static_cast<unsigned>(x.heads));
  const std::size_t shared = sizeof(Accumulate<T>) * static_cast<std::size_t>(window + 4 * run) +
                             place_bytes(tile_tokens + window - 1);
  allow_shared(cuda, reinterpret_cast<const void*>(convolve<T>), window, shared);
  convolve<T><<<blocks, conv_threads, shared, cuda.stream>>>(sequences, x, weight, window, is_reversed, y);
  check_launch("depthwise_conv");
}

}  // namespace

template <class T>
void depthwise_conv_forward(Cuda& cuda, const Sequences& sequences, Heads<const T> x,
                            const Accumulate<T>* weight, int window, T* y) {
  launch_convolve(cuda, sequences, x, weight, window, false, y);
}

template <class T>
void depthwise_conv_backward(Cuda& cuda, const Sequences& sequences, Heads<const T> x,
                             const Accumulate<T>* weight, int window, const T* dy, T* dx,
                             Accumulate<T>* dweight) {
  const std::int64_t row = std::int64_t{x.heads} * x.width;
  if (dx != nullptr)
    launch_convolve(cuda, sequences, Heads<const T>{dy, x.tokens, x.heads, x.width, row, x.width}, weight,
                    window, true, dx);
  if (dweight == nullptr || x.tokens == 0 || row == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_band(x, window) && is_aligned(16, dy))
      return correlate_on_tensor_cores(cuda, sequences, x, window, dy, dweight);
  }
  const std::int64_t tiles = (x.tokens + correlate_tokens - 1) / correlate_tokens;
  const Scratch<Accumulate<T>> partial(cuda, tiles * x.heads * window);
  const int groups = (window + run - 1) / run;
  const std::size_t shared = sizeof(Accumulate<T>) * static_cast<std::size_t>(strips * groups * run) +
                             place_bytes(correlate_tokens + window - 1);
  allow_shared(cuda, reinterpret_cast<const void*>(correlate<T>), window, shared);
  correlate<T><<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(x.heads)), conv_threads, shared,
                 cuda.stream>>>(sequences, x, window, dy, partial.data());
  check_launch("depthwise_conv_backward");
  add_partial_sums<Accumulate<T>>(cuda, partial.data(), tiles, dweight, std::int64_t{x.heads} * window);
}

#define INSTANTIATE(T)                                                                                         \
  template void depthwise_conv_forward<T>(Cuda&, const Sequences&, Heads<const T>, const Accumulate<T>*, int,  \
                                          T*);                                                                 \
  template void depthwise_conv_backward<T>(Cuda&, const Sequences&, Heads<const T>, const Accumulate<T>*, int, \
                                           const T*, T*, Accumulate<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
