// Device side that the sm_90a attention kernels share: tile geometry, loads, dropout masks, scores, stores.
#pragma once

#include "kernels/cuda/attention_hopper_tiles.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels::hopper {

constexpr float log2_e = 1.44269504f, infinity = __builtin_huge_valf();

/// Tiles of [rows, width] lie in shared memory as blocks of at most 64 columns, [block][row][column], rows of
/// 128 (64) bytes with their 16-byte chunks exchanged by the engine's 128-byte (64-byte) swizzle.
template <int width>
struct Tile {
  static constexpr int columns = width < 64 ? width : 64;
  static constexpr int blocks = width / columns;
  static constexpr int row_bytes = 2 * columns;
  static constexpr int steps = width / 16;  ///< products of 16 along the width
  static constexpr std::uint32_t bytes(int rows) { return static_cast<std::uint32_t>(rows * 2 * width); }

  static __device__ __forceinline__ std::uint64_t descriptor(std::uint32_t address, int block_bytes) {
    constexpr std::uint64_t swizzle = columns == 64 ? 1 : 2;
    return swizzle << 62 | std::uint64_t{8 * row_bytes / 16} << 32 |
           static_cast<std::uint64_t>(block_bytes / 16) << 16 | (address & 0x3FFFF) >> 4;
  }
  /// Columns 16 step ... of the rows from `row` on, contracted along the width. `rows`: height of the tile.
  static __device__ __forceinline__ std::uint64_t along_width(std::uint32_t tile, int rows, int row, int step) {
    constexpr int block_steps = columns / 16;
    const int offset = (step / block_steps * rows + row) * row_bytes + step % block_steps * 32;
    return descriptor(tile + static_cast<std::uint32_t>(offset), 16);
  }
  /// Rows 16 step ..., contracted along the rows.
  static __device__ __forceinline__ std::uint64_t along_rows(std::uint32_t tile, int rows, int step) {
    return descriptor(tile + static_cast<std::uint32_t>(step * 16 * row_bytes), rows * row_bytes);
  }

  /// One thread: tokens token ... token + rows - 1 of a head; those beyond the view arrive as zeros.
  static __device__ __forceinline__ void load(std::uint32_t tile, int rows, const CUtensorMap& map,
                                              std::uint32_t barrier, int head, int token) {
    for (int block = 0; block < blocks; ++block)
      for (int row = 0; row < rows; row += box_rows)
        copy_box(tile + static_cast<std::uint32_t>((block * rows + row) * row_bytes), map, barrier,
                 block * columns, head, token + row);
  }
  /// All `threads`: clears rows from `valid` on of two tiles, whatever they hold, so that they add nothing to
  /// products.
  static __device__ __forceinline__ void clear_tails(std::byte* a, std::byte* b, int rows, int valid,
                                                     int threads) {
    if (valid >= rows) return;
    clear_tail(a, rows, valid, threads);
    clear_tail(b, rows, valid, threads);
    fence_shared_writes();
    named_barrier(1, threads);
  }

 private:
  static __device__ __forceinline__ void clear_tail(std::byte* tile, int rows, int valid, int threads) {
    constexpr int row_chunks = row_bytes / 16;
    const int chunks = (rows - valid) * row_chunks;
    for (int block = 0; block < blocks; ++block) {
      auto* const target = reinterpret_cast<uint4*>(tile + (block * rows + valid) * row_bytes);
      for (int i = static_cast<int>(threadIdx.x); i < chunks; i += threads) target[i] = uint4{};
    }
  }
};

/// acc = a b^T of 64 rows of `a` from `row` on and all rows of `b`, contracted along the width.
template <int width, int count>
__device__ __forceinline__ void multiply_along_width(float (&acc)[count], std::uint32_t a, int a_rows, int row,
                                                     std::uint32_t b) {
  constexpr int b_rows = 2 * count;
#pragma unroll
  for (int step = 0; step < Tile<width>::steps; ++step)
    Product<b_rows>::add(acc, Tile<width>::along_width(a, a_rows, row, step),
                         Tile<width>::along_width(b, b_rows, 0, step), step > 0);
  commit_products();
}
/// acc (+)= a b for a left operand in registers, as many columns as `b` has rows.
template <int width, int count>
__device__ __forceinline__ void multiply_along_rows(float (&acc)[width / 2], const std::uint32_t (&a)[count],
                                                    std::uint32_t b, bool accumulate) {
#pragma unroll
  for (int step = 0; step < count / 4; ++step)
    Product<width>::template add<true>(acc, a + 4 * step, Tile<width>::along_rows(b, 4 * count, step),
                                       accumulate || step > 0);
  commit_products();
}

/// Where a thread's accumulators lie in its warpgroup's 64 rows.
struct Fragment {
  int row;     ///< and row + 8
  int column;  ///< 8 j + column (+ 1)
};
__device__ __forceinline__ Fragment fragment() {
  const int thread = static_cast<int>(threadIdx.x) % warpgroup_threads;
  return {thread / 32 * 16 + thread % 32 / 4, thread % 4 * 2};
}
/// Which warpgroup of the block: the same in all lanes, and known to be.
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);
}
__device__ __forceinline__ bool is_first_lane() { return threadIdx.x % warp_lanes == 0; }

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ std::uint32_t pack_bfloat16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ float low_bfloat16(std::uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_bfloat16(std::uint32_t packed) {
  return __uint_as_float(packed & 0xFFFF0000u);
}

/// Bytes of `high`:`low` by selector digits; 8 | b stands for the sign of byte b, repeated.
template <std::uint32_t selector>
__device__ __forceinline__ std::uint32_t permute_bytes(std::uint32_t low, std::uint32_t high) {
  std::uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(low), "r"(high), "n"(selector));
  return out;
}

/// Masks of a sequence and head. Rows of the fragment are queries, or keys if `transposed`.
template <bool transposed>
class DropoutDraw {
 public:
  __device__ __forceinline__ DropoutDraw(const WeightDropout& law, const WorkItem& item, int head, int row)
      : law_(law) {
    const std::uint32_t patch = static_cast<std::uint32_t>(row >> 4 << 2 | (row & 7) >> 1);
    if constexpr (transposed) {
      low_ = patch;
      high_ = static_cast<std::uint32_t>(head) << 16;
    } else {
      low_ = patch << 24;
      high_ = static_cast<std::uint32_t>(head) << 16 | patch >> 8;
    }
    sample_ = static_cast<std::uint32_t>(law.sample[item.sequence]);
    step_ = *law.step;
    is_odd_ = (row & 1) != 0;
  }

  /// Drops weights of the columns 16 group ... 16 group + 31 from packed fragments: [2][4] registers, as
  /// operands of two products. `group` counts 16 columns from the sequence's start and is even. Each lane draws
  /// one block of the two column groups and swaps two words with the lane of the neighbouring row.
  __device__ __forceinline__ void apply(std::uint32_t* weights, int group) const {
    const auto lane_pair = static_cast<std::uint32_t>(threadIdx.x % 4);
    const std::uint32_t column_patch = static_cast<std::uint32_t>(group + (is_odd_ ? 1 : 0)) * 4 + lane_pair;
    std::uint32_t word[4];
    draw(column_patch, word);
    if constexpr (transposed) swap(word[1], word[2]);
    const std::uint32_t got0 = __shfl_xor_sync(0xFFFFFFFFu, is_odd_ ? word[0] : word[2], 4);
    const std::uint32_t got1 = __shfl_xor_sync(0xFFFFFFFFu, is_odd_ ? word[1] : word[3], 4);
    mask(weights, is_odd_ ? got0 : word[0], is_odd_ ? got1 : word[1]);
    mask(weights + 4, is_odd_ ? word[2] : got0, is_odd_ ? word[3] : got1);
  }

 private:
  static __device__ __forceinline__ void swap(std::uint32_t& a, std::uint32_t& b) {
    const std::uint32_t c = a;
    a = b;
    b = c;
  }
  __device__ __forceinline__ void draw(std::uint32_t patch, std::uint32_t (&word)[4]) const {
    word[0] = transposed ? low_ | patch << 24 : low_ | patch;
    word[1] = transposed ? high_ | patch >> 8 : high_;
    word[2] = sample_;
    word[3] = step_;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * word[0];
      const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * word[2];
      word[0] = static_cast<std::uint32_t>(product1 >> 32) ^ word[1] ^ law_.round_key[2 * round];
      word[1] = static_cast<std::uint32_t>(product1);
      word[2] = static_cast<std::uint32_t>(product0 >> 32) ^ word[3] ^ law_.round_key[2 * round + 1];
      word[3] = static_cast<std::uint32_t>(product0);
    }
  }
  __device__ __forceinline__ std::uint32_t kept(std::uint32_t word) const {
    const std::uint32_t sum = (word & 0x7F7F7F7Fu) + law_.bias;
    return (sum & word) | ((sum | word) & law_.either);
  }
  /// `even`, `odd`: words of the even and odd column.
  __device__ __forceinline__ void mask(std::uint32_t* weights, std::uint32_t even, std::uint32_t odd) const {
    even = kept(even);
    odd = kept(odd);
    weights[0] &= permute_bytes<0xCC88>(even, odd);
    weights[1] &= permute_bytes < transposed ? 0xDD99 : 0xEEAA > (even, odd);
    weights[2] &= permute_bytes < transposed ? 0xEEAA : 0xDD99 > (even, odd);
    weights[3] &= permute_bytes<0xFFBB>(even, odd);
  }

  const WeightDropout& law_;
  std::uint32_t low_, high_, sample_, step_;
  bool is_odd_;
};

/// 1 - arccos(s) / pi, with arccos |s| = sqrt(1 - |s|) P(|s|) to 1e-4 (Abramowitz and Stegun, 4.4.45, its
/// constant term refitted). In the place of a clamp of s to +-(1 - 1e-6), 1e-6 is added to 1 - |s|, which is
/// cut off at 0 by the same instruction: angles differ by up to 1.4e-3, where rows are nearly parallel, and by
/// less than what the rounding of unit rows to bfloat16 makes of them.
__device__ __forceinline__ float agreement(float s) {
  const float size = fabsf(s);
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(__saturatef(1.000001f - size)));
  const float polynomial =
      fmaf(fmaf(fmaf(-0.00596172f, size, 0.02363801f), size, -0.06751811f), size, 0.4999885f);
  return 0.5f + copysignf(fmaf(-root, polynomial, 0.5f), s);
}
/// 1 / sqrt(1 - s^2) at the clamped cosine.
__device__ __forceinline__ float inverse_sine(float s) {
  const float x = fmaxf(1.0f - fabsf(s), 1e-6f);
  return rsqrtf(x * (2.0f - x));
}
/// power = x^exponent, by the bits of the exponent from the highest on, so that no register is copied.
template <int count>
__device__ __forceinline__ void raise(const float (&x)[count], float (&power)[count], int exponent) {
  const auto square = [&](const float(&from)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) power[i] = from[i] * from[i];
  };
  const auto take_bit = [&](int bit) {
    if ((exponent >> bit & 1) == 0) return;
#pragma unroll
    for (int i = 0; i < count; ++i) power[i] *= x[i];
  };
  if (exponent >> 3 == 1) {  // of usual lengths: without a loop's counting
    square(x);
    take_bit(2);
    square(power);
    take_bit(1);
    square(power);
    take_bit(0);
  } else if (exponent < 2) {
#pragma unroll
    for (int i = 0; i < count; ++i) power[i] = exponent == 1 ? x[i] : 1.0f;
  } else {
    int bit = 30 - __clz(exponent);
    square(x);
    take_bit(bit);
#pragma unroll 1
    while (--bit >= 0) {
      square(power);
      take_bit(bit);
    }
  }
}

/// Weights of cosines, and what multiplies dout . v in the scores' gradient, up to a constant.
template <int count>
__device__ __forceinline__ void bernoulli_gradient(const float (&scores)[count],
                                                   std::uint32_t (&weights)[count / 2],
                                                   std::uint32_t (&slopes)[count / 2], int bits,
                                                   bool is_exact) {
  constexpr int chunk = 8;
#pragma unroll
  for (int base = 0; base < count; base += chunk) {
    float power[chunk], factor[chunk];
#pragma unroll
    for (int i = 0; i < chunk; ++i) factor[i] = agreement(scores[base + i]);
    raise(factor, power, is_exact ? bits - 1 : bits);
#pragma unroll
    for (int i = 0; i < chunk; i += 2) {
      std::uint32_t& weight = weights[(base + i) / 2];
      std::uint32_t& slope = slopes[(base + i) / 2];
      weight = slope = pack_bfloat16(power[i], power[i + 1]);
      if (!is_exact) continue;
      weight = pack_bfloat16(power[i] * factor[i], power[i + 1] * factor[i + 1]);
      slope = pack_bfloat16(power[i] * inverse_sine(scores[base + i]),
                            power[i + 1] * inverse_sine(scores[base + i + 1]));
    }
  }
}

/// Stores accumulators [64 x width] times `scale` for the rows below `rows`.
template <int width>
__device__ __forceinline__ void store_rows(const Heads<bfloat16>& out, std::int64_t token, int head, int rows,
                                           const float (&acc)[width / 2], float low_scale, float high_scale) {
  const Fragment mine = fragment();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = mine.row + 8 * half;
    if (row >= rows) continue;
    auto* const target = reinterpret_cast<std::uint32_t*>(row_of(out, token + row, head) + mine.column);
    const float scale = half == 0 ? low_scale : high_scale;
#pragma unroll
    for (int j = 0; j < width / 8; ++j)
      target[4 * j] = pack_bfloat16(acc[4 * j + 2 * half] * scale, acc[4 * j + 2 * half + 1] * scale);
  }
}
/// The sum over the four lanes that hold a row of accumulators.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

/// Stores `scale` times a gradient of unit rows x = z / |z| as that of z: (d - x (x . d)) / |z|. Without unit
/// rows as it is. All lanes take part.
template <int width>
__device__ __forceinline__ void store_gradient(const Heads<bfloat16>& out, const UnitRows<bfloat16>& unit,
                                               std::int64_t token, int head, int rows, float (&acc)[width / 2],
                                               float scale) {
  if (unit.rows.data == nullptr) return store_rows<width>(out, token, head, rows, acc, scale, scale);
  const Fragment mine = fragment();
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = mine.row + 8 * half;
    const bool is_row = row < rows;
    const auto* const from =
        reinterpret_cast<const std::uint32_t*>(row_of(unit.rows, is_row ? token + row : 0, head) + mine.column);
    std::uint32_t x[width / 8];
    float dot = 0;
#pragma unroll
    for (int j = 0; j < width / 8; ++j) {
      x[j] = is_row ? from[4 * j] : 0;
      dot += low_bfloat16(x[j]) * acc[4 * j + 2 * half] + high_bfloat16(x[j]) * acc[4 * j + 2 * half + 1];
    }
    dot = row_sum(dot);
#pragma unroll
    for (int j = 0; j < width / 8; ++j) {
      acc[4 * j + 2 * half] -= low_bfloat16(x[j]) * dot;
      acc[4 * j + 2 * half + 1] -= high_bfloat16(x[j]) * dot;
    }
    const float length = is_row ? *row_of(unit.norm, token + row, head) : 0.0f;
    factor[half] = length < static_cast<float>(smallest_norm) ? 0.0f : scale / length;
  }
  store_rows<width>(out, token, head, rows, acc, factor[0], factor[1]);
}
/// Clears an item's rows of `out`.
template <int width>
__device__ __forceinline__ void clear_rows(const Heads<bfloat16>& out, const WorkItem& item, int tile,
                                           int head) {
  constexpr int row_packs = width / 8;
  const int rows = min(tile, item.length - item.start);
  for (int i = static_cast<int>(threadIdx.x); i < rows * row_packs; i += static_cast<int>(blockDim.x)) {
    bfloat16* const row = row_of(out, std::int64_t{item.first} + item.start + i / row_packs, head);
    store_pack(row + i % row_packs * 8, Pack<bfloat16, 8>{});
  }
}

}  // namespace tern::kernels::hopper
