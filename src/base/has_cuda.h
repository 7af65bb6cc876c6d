// Whether this build holds the CUDA code: read by core/dispatch.h, base/device.cpp, core/allocator.cpp and
// core/copy.cpp only.
#pragma once

namespace tern {

constexpr bool has_cuda = TERN_HAS_CUDA != 0;

}  // namespace tern
