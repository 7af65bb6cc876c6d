#include "base/cuda_side_work.h"

#include <map>
#include <mutex>

#include "base/cuda_device.h"

namespace tern {
namespace {

struct SideStream {
  cudaStream_t stream = nullptr;
  cudaEvent_t reached = nullptr;
};

/// Made on first use; never destroyed, as the stream beside it.
SideStream& side_stream(int index) {
  static auto* streams = new std::map<int, SideStream>;
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  SideStream& side = (*streams)[index];
  if (side.stream == nullptr) {
    check_cuda(cudaStreamCreateWithFlags(&side.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cuda(cudaEventCreateWithFlags(&side.reached, cudaEventDisableTiming), "cudaEventCreate");
  }
  return side;
}

}  // namespace

SideWork::SideWork(Cuda& cuda) : main_(cuda), side_(cuda) {
  const SideStream& side = side_stream(cuda.index);
  side_.stream = side.stream;
  reached_ = side.reached;
  follow();
  hold_released_memory(cuda.index);
}

SideWork::~SideWork() {
  // fails only after an earlier, reported error
  cudaEventRecord(reached_, side_.stream);
  cudaStreamWaitEvent(main_.stream, reached_);
  reuse_released_memory(main_.index);
}

void SideWork::follow() {
  check_cuda(cudaEventRecord(reached_, main_.stream), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(side_.stream, reached_), "cudaStreamWaitEvent");
}

}  // namespace tern
