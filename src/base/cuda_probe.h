// Whether this program holds machine code for the current GPU.
#pragma once

#include <string>

#include <cuda_runtime.h>

namespace tern {

cudaError_t probe_kernel_image();
/// Such as "90a" or "80 90a".
std::string built_architectures();

}  // namespace tern
