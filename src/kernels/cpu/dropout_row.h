// One row of dropout factors. Internal linkage: compiled once for each instruction set.
#pragma once

#include <algorithm>

#include "kernels/cpu/philox_lanes.h"
#include "kernels/dropout.h"

namespace tern::kernels {
namespace {

/// y[c] = x[c] * factor (+ residual[c]) for the columns of one row.
template <Isa isa, class T>
void dropout_row(const DropoutMask& mask, std::int64_t row, std::int64_t width, const T* x, const T* residual,
                 T* y) {
  constexpr int lanes = Simd<std::uint64_t, isa>::lanes, columns = 8 * lanes;  // eight slices a block
  const std::uint32_t threshold = dropout_threshold(mask.rate);
  const T scale = T(65536) / static_cast<T>(65536 - threshold);
  const auto sample = static_cast<std::uint32_t>(mask.sample[row]);
  Vector<std::uint64_t, isa> offsets;
  for (int lane = 0; lane < lanes; ++lane) offsets[lane] = static_cast<std::uint64_t>(lane);
  for (std::int64_t done = 0; done < width; done += columns) {
    typedef std::uint16_t Slice __attribute__((may_alias));
    std::uint64_t drawn[2 * lanes];
    const std::uint64_t block = dropout_block(mask.position[row], done);
    draw_blocks<isa>(mask.stream, sample, offsets + (block & 0xFFFFFFFFu),
                     static_cast<std::uint32_t>(block >> 32), drawn);
    const auto* slices = reinterpret_cast<const Slice*>(drawn);
    const std::int64_t count = std::min<std::int64_t>(columns, width - done);
    for (std::int64_t c = 0; c < count; ++c) {
      const T kept = slices[c] < threshold ? T(0) : x[done + c] * scale;
      y[done + c] = residual != nullptr ? residual[done + c] + kept : kept;
    }
  }
}

}  // namespace
}  // namespace tern::kernels
