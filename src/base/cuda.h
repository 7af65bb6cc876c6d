// The GPU of this process: stream, library handles and limits; how failures are told; scratch memory of
// kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "base/cuda_memory.h"
#include "tern/device.h"
#include "tern/error.h"

namespace tern {

/// Where a kernel met an index outside its table. The host finds it at its next synchronization.
enum class FaultSite : int { none, embedding, cross_entropy };
struct DeviceFault {
  int site = 0;         ///< FaultSite of the first fault
  int bound = 0;        ///< indices must lie in [0, bound)
  long long place = 0;  ///< row of the index
  long long value = 0;  ///< the index
};

/// All work of one device goes to one stream, in order; cuda_side_work.h tells the exception.
struct Cuda {
  int index = 0;
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  std::byte* blas_workspace = nullptr;
  std::size_t blas_workspace_bytes = 0;
  int multiprocessors = 0;
  int capability = 0;     ///< 10 * major + minor, such as 90
  int shared_memory = 0;  ///< bytes that one block may ask for
  CudaOptions options;
  DeviceFault* fault = nullptr;  ///< in device memory
};

/// The context of device `index`, made on first use. Throws Error(failed) where this program cannot use it.
Cuda& cuda_context(int index);

/// take_device_memory() whose memory the stream of `cuda` is the first to use.
std::byte* take_device_memory(const Cuda& cuda, std::size_t bytes);

/// Throws Error(failed) "what: CUDA's text" unless `status` is success.
void check_cuda(cudaError_t status, const char* what);
void check_blas(cublasStatus_t status, const char* what);
/// After each launch: throws if it was refused. Does not wait.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

/// Device memory of one kernel call: released in stream order when it goes out of scope.
template <class T>
class Scratch {
 public:
  Scratch(Cuda& cuda, std::int64_t count)
      : bytes_(static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(T)),
        data_(reinterpret_cast<T*>(take_device_memory(cuda, bytes_))),
        index_(cuda.index) {}
  ~Scratch() { release_device_memory(index_, reinterpret_cast<std::byte*>(data_), bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return data_; }

 private:
  std::size_t bytes_;
  T* data_;
  int index_;
};

}  // namespace tern
