// Inverted dropout (Srivastava et al. 2014) from counter-based streams; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Rate and stream of one site. An entry is dropped when its 16-bit draw lies below round(rate * 65536); kept
/// entries are scaled by the inverse of the exact keep rate. Element (sample, position, column) reads slice
/// column % 8 of block position * ceil(width / 8) + column / 8.
struct DropoutMask {
  float rate = 0;
  RandomStream stream;
  const std::int64_t* sample;    ///< [rows]
  const std::int32_t* position;  ///< [rows]
};

/// y = mask * x / keep (+ residual where it is not null). The gradient is the same function of dy. In place is
/// allowed.
template <class T, Isa isa>
void dropout(Cpu<isa>&, Rows<const T> x, const DropoutMask& mask, const T* residual, T* y);

}  // namespace tern::kernels
