// Inverted dropout (Srivastava et al. 2014) from counter-based streams; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// An entry is dropped when its 16-bit draw lies below the threshold; kept entries are multiplied by
/// 65536 / (65536 - threshold), the inverse of the exact keep rate, which is at least 2^-16.
TERN_HOST_DEVICE constexpr std::uint32_t dropout_threshold(float rate) {
  const auto nearest = static_cast<std::uint32_t>(rate * 65536.0f + 0.5f);
  return nearest < 65535u ? nearest : 65535u;
}
/// Stream block that holds the draw of (position, column), as slice column % 8: the block's four words in
/// order, low half first. Columns lie below 2^27.
TERN_HOST_DEVICE constexpr std::uint64_t dropout_block(std::int64_t position, std::int64_t column) {
  return static_cast<std::uint64_t>(position) << 24 | static_cast<std::uint64_t>(column) >> 3;
}

/// Rate, stream and coordinates of one site.
struct DropoutMask {
  float rate = 0;
  RandomStream stream;
  const std::int64_t* sample = nullptr;    ///< [rows]
  const std::int32_t* position = nullptr;  ///< [rows]
};

/// y = mask * x / keep. The gradient is the same function of dy. In place is allowed.
template <class T, Isa isa>
void dropout(Cpu<isa>&, Rows<const T> x, const DropoutMask& mask, T* y);
template <class T>
void dropout(Cuda&, Rows<const T> x, const DropoutMask& mask, T* y);

}  // namespace tern::kernels
