// Dropout factors on the device, as kernels/dropout.h defines them. Deterministic. One Philox block, about 60
// instructions, serves eight neighbouring columns of a row; without dropout a uniform branch skips all of it.
//
//   const std::uint32_t step = draw.step();               // once a thread
//   const DropoutRow row = draw.row(r, step);             // once a row
//   Accumulate<T> factor[8];
//   draw.factors(row, column, factor);                    // column % 8 == 0
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/dropout.h"

namespace tern::kernels {

/// Columns that one Philox block serves.
constexpr int dropout_columns = 8;

/// Coordinates of a row's draws: what its blocks' counters have in common.
struct DropoutRow {
  std::uint32_t low, high;  ///< of the block of column 0; column / 8 is added to `low`
  std::uint32_t sample, step;
};

/// A DropoutMask ready for kernels, which take it by value. A is Accumulate<T> of the data.
template <class A>
struct DropoutDraw {
  std::uint32_t threshold = 0;  ///< 0: nothing is dropped and nothing behind the pointers is read
  A scale = 1;                  ///< factor of kept entries
  RandomStream stream;
  const std::int64_t* sample = nullptr;
  const std::int32_t* position = nullptr;

  DropoutDraw() = default;
  explicit DropoutDraw(const DropoutMask& mask)
      : threshold(dropout_threshold(mask.rate)),
        scale(A(65536) / static_cast<A>(65536 - threshold)),
        stream(mask.stream),
        sample(mask.sample),
        position(mask.position) {}

  /// Equal in all threads of a launch.
  __device__ __forceinline__ bool drops() const { return threshold != 0; }
  __device__ __forceinline__ std::uint32_t step() const { return drops() ? *stream.step : 0; }
  __device__ __forceinline__ DropoutRow row(std::int64_t r, std::uint32_t step) const {
    if (!drops()) return {};
    const std::uint64_t block = dropout_block(position[r], 0);
    return {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
            static_cast<std::uint32_t>(sample[r]), step};
  }

  /// Bit c tells whether column + c is kept, c = 0 .. 7; column % 8 == 0.
  __device__ __forceinline__ std::uint32_t kept(const DropoutRow& row, std::uint32_t column) const {
    if (!drops()) return 0xFFu;
    const PhiloxWords words = block(row, column);
    const std::uint32_t upper = threshold << 16;
    std::uint32_t bits = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      bits |= static_cast<std::uint32_t>(words.word[w] << 16 >= upper) << (2 * w);
      bits |= static_cast<std::uint32_t>(words.word[w] >= upper) << (2 * w + 1);
    }
    return bits;
  }
  /// 0 or `scale` for columns column .. column + 7; column % 8 == 0.
  __device__ __forceinline__ void factors(const DropoutRow& row, std::uint32_t column, A (&factor)[8]) const {
#pragma unroll
    for (int c = 0; c < dropout_columns; ++c) factor[c] = scale;
    if (!drops()) return;
    const PhiloxWords words = block(row, column);
    const std::uint32_t upper = threshold << 16;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (words.word[w] << 16 < upper) factor[2 * w] = 0;
      if (words.word[w] < upper) factor[2 * w + 1] = 0;
    }
  }
  /// 0 or `scale` for one column: as dear as eight.
  __device__ __forceinline__ A factor(const DropoutRow& row, std::uint32_t column) const {
    if (!drops()) return scale;
    const PhiloxWords words = block(row, column);
    const std::uint32_t pair = column & 4 ? (column & 2 ? words.word[3] : words.word[2])
                                          : (column & 2 ? words.word[1] : words.word[0]);
    return (column & 1 ? pair >> 16 : pair & 0xFFFFu) < threshold ? A(0) : scale;
  }

 private:
  /// A row's blocks never carry into `high`: columns lie below 2^27 (kernels/dropout.h).
  __device__ __forceinline__ PhiloxWords block(const DropoutRow& row, std::uint32_t column) const {
    return philox({{row.low + column / dropout_columns, row.high, row.sample, row.step}}, stream.key);
  }
};

}  // namespace tern::kernels
