// Convolution along sequences on tensor cores: bfloat16 rows, float32 sums, sm_80 and later. Deterministic.
//
// A block puts the tokens around its tile into shared memory by place (conv_places.cuh), zeros where there is
// no token: 64 places at a time, once where nothing is masked. With r the row of a source and m that of an
// output, the tap is r - m:
//   forward, dx:  y[m, c] = sum over r of weight[r - m] x[r, c], the left operand made of weights, which
//                 are split in two bfloat16 so that their rounding is of order 2^-17;
//   dweight:      the diagonals of dy x^T; products of equal r - m fall on the same registers for all tiles.
// Cost: one read of the rows around each tile, one write of y.
#pragma once

#include "kernels/cuda/conv_places.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {
namespace {

constexpr int band_warps = 4, band_threads = band_warps * warp_lanes;
constexpr int band_tile = 16 * band_warps;    ///< tokens of a block, and places that it takes at a time
constexpr int band_columns = 32;              ///< of a head that it takes at a time
constexpr int band_pitch = band_columns + 8;  ///< of a row in shared memory: no bank conflicts in ldmatrix

/// Depth of the products of 16 outputs: 16 * steps rows hold all taps of windows up to 16 * steps - 15.
template <int steps>
constexpr int band_rows = band_tile - 16 + 16 * steps;

template <int steps>
struct BandMemory {
  std::uint16_t rows[band_rows<steps>][band_pitch];
  std::uint16_t outputs[band_tile][band_pitch];  ///< dy, or y on its way out
  int token[band_tile];                          ///< of each place, counted in the window; -1 for none
};

struct BandArguments {
  Sequences sequences;
  Heads<const bfloat16> x;
  const bfloat16* dy;   ///< dweight only, packed
  const float* weight;  ///< of forward and dx
  int window;
  bool is_reversed;
  bfloat16* y;
  float* partial;  ///< dweight: [blocks.x, heads, window]
  int tiles;       ///< dweight: of a block
};

/// Puts the rows of tokens with places in [low, low + count) to shared memory, zeros elsewhere. `rows` is the
/// row of the window's token 0.
__device__ __forceinline__ void place_rows(const PlaceWindow& window, const bfloat16* rows, std::int64_t stride,
                                           int low, int count, std::uint16_t (*to)[band_pitch]) {
  constexpr int pieces = band_columns / 8;  // of 16 bytes
  const int piece = static_cast<int>(threadIdx.x) % pieces * 8;
  for (int r = static_cast<int>(threadIdx.x) / pieces; r < count; r += band_threads / pieces)
    *reinterpret_cast<uint4*>(&to[r][piece]) = make_uint4(0, 0, 0, 0);
  __syncthreads();
  for (int k = window.begin + static_cast<int>(threadIdx.x) / pieces; k < window.end;
       k += band_threads / pieces) {
    const int r = window.place[k] - low;
    if (r >= 0 && r < count) copy_ahead<16>(shared_address(&to[r][piece]), rows + k * stride + piece, true);
  }
}

/// The token that follows those with places in [place of `first`, that + band_tile); at most `end`.
__device__ __forceinline__ int next_token(const PlaceWindow& window, int first, int end) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, limit = window.place[first] + band_tile;
  int next = first;
#pragma unroll
  for (int step = 0; step < band_tile; step += warp_lanes) {
    const int k = first + step + lane;
    next += __popc(__ballot_sync(0xFFFFFFFFu, k < end && window.place[k] < limit));
  }
  return next;
}

/// Left operands of all products: pair[j + 1] holds weights 8 j + 2 t - g and the next, with g and t as in
/// warp_products.cuh; `low` what rounding `high` to bfloat16 lost.
template <int steps>
struct BandWeights {
  std::uint32_t high[2 * steps + 1], low[2 * steps + 1];

  __device__ __forceinline__ BandWeights(const BandArguments& a, int head) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
    const auto load = [&](int tap) {
      if (tap < 0 || tap >= a.window) return 0.0f;
      return a.weight[head * a.window + (a.is_reversed ? a.window - 1 - tap : tap)];
    };
#pragma unroll
    for (int j = -1; j < 2 * steps; ++j) {
      const int tap = 8 * j + lane % 4 * 2 - lane / 4;
      const float first = load(tap), second = load(tap + 1);
      high[j + 1] = pack_pair(first, second);
      low[j + 1] = pack_pair(first - first_of(high[j + 1]), second - second_of(high[j + 1]));
    }
  }
};

template <int steps>
__device__ __forceinline__ void multiply_band(const BandMemory<steps>& memory,
                                              const BandWeights<steps>& weights, int first,
                                              float (&sums)[band_columns / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int k = 0; k < steps; ++k) {
    const std::uint32_t high[4] = {weights.high[2 * k + 1], weights.high[2 * k], weights.high[2 * k + 2],
                                   weights.high[2 * k + 1]},
                        low[4] = {weights.low[2 * k + 1], weights.low[2 * k], weights.low[2 * k + 2],
                                  weights.low[2 * k + 1]};
#pragma unroll
    for (int n = 0; n < band_columns / 8; n += 2) {
      std::uint32_t b[4];
      load_matrices_transposed(b,
                               shared_address(&memory.rows[first + 16 * k + lane % 16][n * 8 + lane / 16 * 8]));
      add_product(sums[n], high, b[0], b[1]);
      add_product(sums[n + 1], high, b[2], b[3]);
      add_product(sums[n], low, b[0], b[1]);
      add_product(sums[n + 1], low, b[2], b[3]);
    }
  }
}

/// Writes the tile's outputs to the tokens at their places.
template <int steps>
__device__ __forceinline__ void store_band(BandMemory<steps>& memory, const float (&sums)[band_columns / 8][4],
                                           bfloat16* rows, std::int64_t stride) {
  constexpr int pieces = band_columns / 8;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
#pragma unroll
  for (int n = 0; n < pieces; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(
          &memory.outputs[warp * 16 + lane / 4 + half * 8][n * 8 + lane % 4 * 2]) =
          pack_pair(sums[n][2 * half], sums[n][2 * half + 1]);
  __syncwarp();  // a warp stores its own rows
  const int piece = lane % pieces * 8;
#pragma unroll
  for (int r = warp * 16 + lane / pieces; r < warp * 16 + 16; r += warp_lanes / pieces)
    if (memory.token[r] >= 0)
      *reinterpret_cast<uint4*>(rows + memory.token[r] * stride + piece) =
          *reinterpret_cast<const uint4*>(&memory.outputs[r][piece]);
}

/// Notes which token of first .. end - 1 has each of the places from `low` on.
template <int steps>
__device__ __forceinline__ void place_tokens(const PlaceWindow& window, int first, int end, int low,
                                             BandMemory<steps>& memory) {
  if (threadIdx.x < band_tile) memory.token[threadIdx.x] = -1;
  __syncthreads();
  const int k = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x < band_tile && k < end) memory.token[window.place[k] - low] = k;
}

/// Block (x, y): tile x, head y.
template <int steps>
__global__ void __launch_bounds__(band_threads) convolve_band(BandArguments a) {
  extern __shared__ __align__(16) unsigned char band_bytes[];
  auto& memory = *reinterpret_cast<BandMemory<steps>*>(band_bytes);
  const int half = a.window / 2, head = static_cast<int>(blockIdx.y),
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const std::int64_t tile = std::int64_t{blockIdx.x} * band_tile,
                     y_stride = std::int64_t{a.x.heads} * a.x.width;
  const BandWeights<steps> weights(a, head);
  const PlaceWindow window = load_places(a.sequences, tile - half, band_tile + 2 * half, a.window + 1,
                                         reinterpret_cast<int*>(band_bytes + sizeof(BandMemory<steps>)));
  const bfloat16* const rows = a.x.data + window.first * a.x.token_stride + head * a.x.head_stride;
  bfloat16* const y = a.y + window.first * y_stride + head * a.x.width;
  const int end = window.end < half + band_tile ? window.end : half + band_tile;
  for (int first = half; first < end;) {
    const int low = window.place[first], next = next_token(window, first, end);
    for (int column = 0; column < a.x.width; column += band_columns) {
      __syncthreads();
      place_tokens(window, first, next, low, memory);
      place_rows(window, rows + column, a.x.token_stride, low - half, band_rows<steps>, memory.rows);
      commit_copies();
      wait_copies<0>();
      __syncthreads();
      float sums[band_columns / 8][4] = {};
      multiply_band<steps>(memory, weights, warp * 16, sums);
      store_band(memory, sums, y + column, y_stride);
    }
    first = next;
  }
  for (int k = (end > half ? end : half) + warp; k < half + band_tile && window.first + k < a.x.tokens;
       k += band_warps)
    for (int c = static_cast<int>(threadIdx.x) % warp_lanes; c < a.x.width; c += warp_lanes)
      y[k * y_stride + c] = bfloat16{};
}

/// sums[n] += products of 16 rows of dy with rows 8 n .. 8 n + 7 of x, counted from the first of the 16.
template <int steps>
__device__ __forceinline__ void correlate_band(const BandMemory<steps>& memory, int first,
                                               float (&sums)[2 * steps][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int c = 0; c < band_columns; c += 16) {
    std::uint32_t a[4];
    load_matrices(a, shared_address(&memory.outputs[first + lane % 16][c + lane / 16 * 8]));
#pragma unroll
    for (int n = 0; n < 2 * steps; n += 2) {
      std::uint32_t b[4];  // rows 8 n by both halves of the columns, then rows 8 n + 8
      load_matrices(
          b, shared_address(&memory.rows[first + n * 8 + lane / 16 * 8 + lane % 8][c + lane / 8 % 2 * 8]));
      add_product(sums[n], a, b[0], b[1]);
      add_product(sums[n + 1], a, b[2], b[3]);
    }
  }
}

/// Block (x, y): the sums of tiles x * tiles .. of head y.
template <int steps>
__global__ void __launch_bounds__(band_threads) correlate_bands(BandArguments a) {
  extern __shared__ __align__(16) unsigned char band_bytes[];
  auto& memory = *reinterpret_cast<BandMemory<steps>*>(band_bytes);
  const int half = a.window / 2, head = static_cast<int>(blockIdx.y),
            warp = static_cast<int>(threadIdx.x) / warp_lanes,
            lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t dy_stride = std::int64_t{a.x.heads} * a.x.width;
  float sums[2 * steps][4] = {};
  for (int t = 0; t < a.tiles; ++t) {
    const std::int64_t tile = (std::int64_t{blockIdx.x} * a.tiles + t) * band_tile;
    if (tile >= a.x.tokens) break;
    __syncthreads();
    const PlaceWindow window = load_places(a.sequences, tile - half, band_tile + 2 * half, a.window + 1,
                                           reinterpret_cast<int*>(band_bytes + sizeof(BandMemory<steps>)));
    const bfloat16* const rows = a.x.data + window.first * a.x.token_stride + head * a.x.head_stride;
    const bfloat16* const dy = a.dy + window.first * dy_stride + head * a.x.width;
    const int end = window.end < half + band_tile ? window.end : half + band_tile;
    for (int first = half; first < end;) {
      const int low = window.place[first], next = next_token(window, first, end);
      PlaceWindow own = window;
      own.begin = first;
      own.end = next;
      for (int column = 0; column < a.x.width; column += band_columns) {
        __syncthreads();
        place_rows(own, dy + column, dy_stride, low, band_tile, memory.outputs);
        place_rows(window, rows + column, a.x.token_stride, low - half, band_rows<steps>, memory.rows);
        commit_copies();
        wait_copies<0>();
        __syncthreads();
        correlate_band<steps>(memory, warp * 16, sums);
      }
      first = next;
    }
  }
  // products [16 outputs, 16 steps sources] of all warps, one after another; taps are their diagonals
  constexpr int pitch = 16 * steps + 1;
  float* const products = reinterpret_cast<float*>(memory.rows);
  for (int turn = 0; turn < band_warps; ++turn) {
    __syncthreads();
    if (warp != turn) continue;
#pragma unroll
    for (int n = 0; n < 2 * steps; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& sum = products[(lane / 4 + e / 2 * 8) * pitch + n * 8 + lane % 4 * 2 + e % 2];
        sum = turn == 0 ? sums[n][e] : sum + sums[n][e];
      }
  }
  __syncthreads();
  for (int tap = static_cast<int>(threadIdx.x); tap < a.window; tap += band_threads) {
    float total = 0;
    for (int m = 0; m < 16; ++m) total += products[m * pitch + m + tap];
    a.partial[(std::int64_t{blockIdx.x} * a.x.heads + head) * a.window + tap] = total;
  }
}

/// Calls body(Steps) with the depth for `window`, an integral constant.
template <class Body>
void with_band_steps(int window, const Body& body) {
  if (window <= 33) return body(std::integral_constant<int, 3>{});
  if (window <= 65) return body(std::integral_constant<int, 5>{});
  body(std::integral_constant<int, 9>{});
}
constexpr int widest_band = 129;

inline bool fits_band(const Heads<const bfloat16>& x, int window) {
  return window <= widest_band && x.width % band_columns == 0 && x.token_stride % 8 == 0 &&
         x.head_stride % 8 == 0 && is_aligned(16, x.data);
}

template <int steps>
std::size_t band_bytes_of(int window) {
  return sizeof(BandMemory<steps>) + place_bytes(band_tile + window - 1);
}

inline unsigned band_tiles(const Heads<const bfloat16>& x) {
  return static_cast<unsigned>((x.tokens + band_tile - 1) / band_tile);
}

inline void convolve_on_tensor_cores(Cuda& cuda, const Sequences& sequences, const Heads<const bfloat16>& x,
                                     const float* weight, int window, bool is_reversed, bfloat16* y) {
  const BandArguments arguments{sequences, x, nullptr, weight, window, is_reversed, y, nullptr, 0};
  const dim3 blocks(band_tiles(x), static_cast<unsigned>(x.heads));
  with_band_steps(window, [&](auto steps) {
    convolve_band<steps.value>
        <<<blocks, band_threads, band_bytes_of<steps.value>(window), cuda.stream>>>(arguments);
  });
  check_launch("depthwise_conv");
}

inline void correlate_on_tensor_cores(Cuda& cuda, const Sequences& sequences, const Heads<const bfloat16>& x,
                                      int window, const bfloat16* dy, float* dweight) {
  const std::int64_t tiles = band_tiles(x), most = std::max(cuda.multiprocessors * 4 / x.heads, 1);
  const int share = static_cast<int>((tiles + most - 1) / most);
  const dim3 blocks(static_cast<unsigned>((tiles + share - 1) / share), static_cast<unsigned>(x.heads));
  const Scratch<float> partial(cuda, std::int64_t{blocks.x} * x.heads * window);
  const BandArguments arguments{sequences, x, dy, nullptr, window, false, nullptr, partial.data(), share};
  with_band_steps(window, [&](auto steps) {
    correlate_bands<steps.value>
        <<<blocks, band_threads, band_bytes_of<steps.value>(window), cuda.stream>>>(arguments);
  });
  check_launch("depthwise_conv_backward");
  add_partial_sums<float>(cuda, partial.data(), blocks.x, dweight, std::int64_t{x.heads} * window);
}

}  // namespace
}  // namespace tern::kernels
