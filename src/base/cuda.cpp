#include "base/cuda.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nvtx3/nvToolsExt.h>

#include "base/cuda_device.h"
#include "base/cuda_path.h"
#include "base/cuda_probe.h"
#include "tern/logging.h"

namespace tern {
namespace {

std::string no_device_text() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  return status == cudaSuccess ? "the driver lists none" : cudaGetErrorString(status);
}

void require_code(const cudaDeviceProp& properties) {
  const cudaError_t status = probe_kernel_image();
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw_error(
      ExitCode::failed,
      "cuda: this program holds code for the architectures {}, the GPU {} has {}{}; configure again with "
      "-DTERN_CUDA_ARCHITECTURES={}{} ({})",
      built_architectures(), properties.name, properties.major, properties.minor, properties.major,
      properties.minor, cudaGetErrorString(status));
}

/// Freed blocks stay with the process: a step takes and gives back the same memory every time.
void keep_freed_memory(int index) {
  cudaMemPool_t memory = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&memory, index), "cudaDeviceGetDefaultMemPool");
  std::uint64_t threshold = std::numeric_limits<std::uint64_t>::max();
  check_cuda(cudaMemPoolSetAttribute(memory, cudaMemPoolAttrReleaseThreshold, &threshold),
             "cudaMemPoolSetAttribute");
}

std::unique_ptr<Cuda> make_context(int index) {
  if (const std::string reason = no_device_text(); !reason.empty())
    throw_error(ExitCode::failed, "cuda: no GPU can be used: {}; set run.device=cpu, or see tern doctor",
                reason);
  auto cuda = std::make_unique<Cuda>();
  cuda->index = index;
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  require_code(properties);
  cuda->multiprocessors = properties.multiProcessorCount;
  cuda->capability = 10 * properties.major + properties.minor;
  cuda->shared_memory = static_cast<int>(properties.sharedMemPerBlockOptin);
  keep_freed_memory(index);
  check_cuda(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  check_blas(cublasLtCreate(&cuda->blas), "cublasLtCreate");
  cuda->blas_workspace_bytes = std::size_t{32} << 20;
  void* block = nullptr;
  check_cuda(cudaMalloc(&block, cuda->blas_workspace_bytes), "cudaMalloc");
  cuda->blas_workspace = static_cast<std::byte*>(block);
  check_cuda(cudaMalloc(&block, sizeof(DeviceFault)), "cudaMalloc");
  check_cuda(cudaMemset(block, 0, sizeof(DeviceFault)), "cudaMemset");
  cuda->fault = static_cast<DeviceFault*>(block);
  return cuda;
}

void throw_fault(const DeviceFault& fault) {
  if (fault.site == static_cast<int>(FaultSite::embedding))
    throw_error(ExitCode::failed, "embedding: ids must lie in [0, {}), got {} at place {}", fault.bound,
                fault.value, fault.place);
  throw_error(ExitCode::failed, "cross_entropy: label {} of row {} is not one of {} classes", fault.value,
              fault.place, fault.bound);
}

CudaOptions& chosen_options() {
  static CudaOptions options;
  return options;
}

std::vector<std::unique_ptr<Cuda>>& contexts() {
  static auto* all = new std::vector<std::unique_ptr<Cuda>>;  // never destroyed: tensors may outlive statics
  return *all;
}

}  // namespace

Cuda& cuda_context(int index) {
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  auto& all = contexts();
  require(index >= 0 && index < 64, "cuda: device {} does not exist", index);
  if (static_cast<int>(all.size()) <= index) all.resize(static_cast<std::size_t>(index) + 1);
  std::unique_ptr<Cuda>& cuda = all[static_cast<std::size_t>(index)];
  if (!cuda) {
    cuda = make_context(index);
    cuda->options = chosen_options();
  }
  return *cuda;
}

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // whoever handles the error launches again
  throw_error(ExitCode::failed, "cuda: {}: {}", what, cudaGetErrorString(status));
}
void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw_error(ExitCode::failed, "cublasLt: {}: {}", what, cublasLtGetStatusString(status));
}

int count_gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::string describe_gpu() {
  if (const std::string reason = no_device_text(); !reason.empty()) return "no GPU: " + reason;
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  int driver = 0, runtime = 0;
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return format_text(
      "{}, compute capability {}.{}, {} MiB, driver for CUDA {}.{}, runtime {}.{}, cuBLASLt {}, built for {}",
      properties.name, properties.major, properties.minor, properties.totalGlobalMem >> 20, driver / 1000,
      driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, cublasLtGetVersion(), built_architectures());
}

void synchronize_gpu(int index) {
  Cuda& cuda = cuda_context(index);
  DeviceFault fault;
  check_cuda(cudaMemcpyAsync(&fault, cuda.fault, sizeof fault, cudaMemcpyDeviceToHost, cuda.stream),
             "the device's work");
  check_cuda(cudaStreamSynchronize(cuda.stream), "the device's work");
  if (fault.site == static_cast<int>(FaultSite::none)) return;
  check_cuda(cudaMemsetAsync(cuda.fault, 0, sizeof fault, cuda.stream), "cudaMemsetAsync");
  throw_fault(fault);
}

namespace {

struct PathReports {
  std::mutex mutex;
  std::set<std::tuple<std::string, int, std::string, std::string>> logged;
  std::vector<std::string> recent;
};
PathReports& path_reports() {
  static PathReports instance;
  return instance;
}

}  // namespace

void log_path(const char* function, int width, const char* path, const char* type) {
  PathReports& reports = path_reports();
  const std::scoped_lock lock(reports.mutex);
  const std::string text = std::string(function) + ": " + path;
  if (std::find(reports.recent.begin(), reports.recent.end(), text) == reports.recent.end())
    reports.recent.push_back(text);
  if (reports.logged.emplace(function, width, path, type).second)
    logging::info("cuda", "{} of width {} in {} runs on {}", function, width, type, path);
}

std::vector<std::string> take_reported_paths() {
  PathReports& reports = path_reports();
  const std::scoped_lock lock(reports.mutex);
  return std::exchange(reports.recent, {});
}

void push_profiler_range(const char* name) { nvtxRangePushA(name); }
void pop_profiler_range() { nvtxRangePop(); }

void set_gpu_options(CudaOptions options) {
  chosen_options() = options;
  for (const std::unique_ptr<Cuda>& cuda : contexts())
    if (cuda) cuda->options = options;
}

}  // namespace tern
