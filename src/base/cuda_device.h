// What base/device.cpp and core/allocator.cpp ask of the CUDA build. Defined in base/cuda.cpp and
// cuda_memory.cpp.
#pragma once

#include <string>

#include "tern/device.h"

namespace tern {

int count_gpus();
std::string describe_gpu();
void synchronize_gpu(int index);
void set_gpu_options(CudaOptions options);
/// take_device_memory() that returns null when memory runs out, so that the caller can say for whom it was.
std::byte* find_device_memory(int index, std::size_t bytes);

/// Between these two nobody gets a block that was given back after the first: work beside the stream may still
/// use it.
void hold_released_memory(int index);
void reuse_released_memory(int index);

}  // namespace tern
