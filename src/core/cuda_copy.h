// Element-wise transfers on a GPU between any strides and number types. Deterministic.
#pragma once

#include <cstdint>

#include "tern/device.h"
#include "tern/tensor.h"

namespace tern {

/// Strides count elements.
struct StridedArray {
  std::byte* data;
  DType dtype;
  std::int64_t strides[Shape::max_rank];
};
struct StridedCopy {
  StridedArray source, target;
  int rank;
  std::int64_t extents[Shape::max_rank];
  bool accumulate;  ///< adds to the target instead of overwriting it
};

/// Neither array is empty. A value outside the target's integer type is undefined, as on the host.
void copy_on_device(Cuda& cuda, const StridedCopy& work);
/// target[0 .. count - 1] = value.
void fill_on_device(Cuda& cuda, std::byte* target, DType dtype, std::int64_t count, double value);

}  // namespace tern
