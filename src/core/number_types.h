// From a number type known at run time to its C++ type, on the host and in kernels.
#pragma once

#include "tern/device.h"
#include "tern/random.h"

namespace tern {

/// Calls body(number of the C++ type of `dtype`).
template <class Body>
TERN_HOST_DEVICE void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::float32:
      return body(float{});
    case DType::float64:
      return body(double{});
    case DType::bfloat16:
      return body(bfloat16{});
    case DType::uint8:
      return body(std::uint8_t{});
    case DType::uint16:
      return body(std::uint16_t{});
    case DType::int32:
      return body(std::int32_t{});
    case DType::int64:
      return body(std::int64_t{});
  }
}

}  // namespace tern
