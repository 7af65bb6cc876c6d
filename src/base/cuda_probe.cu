#include "base/cuda_probe.h"

namespace tern {
namespace {

__global__ void empty_kernel() {}

}  // namespace

cudaError_t probe_kernel_image() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, empty_kernel);
}

std::string built_architectures() { return TERN_CUDA_ARCHITECTURES; }

}  // namespace tern
