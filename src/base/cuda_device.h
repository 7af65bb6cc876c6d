// What base/device.cpp asks of the CUDA build. Defined in base/cuda.cpp.
#pragma once

#include <string>

#include "tern/device.h"

namespace tern {

int count_gpus();
std::string describe_gpu();
void synchronize_gpu(int index);
void set_gpu_options(CudaOptions options);

}  // namespace tern
