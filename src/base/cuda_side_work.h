// Work beside the stream of a device: kernels too small to fill it run at the same time as others.
#pragma once

#include "base/cuda.h"

namespace tern {

/// From its making to its end the device has two streams. What goes to cuda() waits for what the stream got
/// before, and runs beside what the stream gets meanwhile; what the stream gets afterwards waits for both.
/// Neither may write what the other one touches; cuBLAS's workspace belongs to the stream. Memory that is given
/// back meanwhile is used again afterwards. One at a time. Part of a graph where the stream is captured.
class SideWork {
 public:
  explicit SideWork(Cuda& cuda);
  ~SideWork();
  SideWork(const SideWork&) = delete;
  SideWork& operator=(const SideWork&) = delete;

  Cuda& cuda() { return side_; }
  /// What cuda() gets from now on also waits for what the stream got so far.
  void follow();

 private:
  Cuda& main_;
  Cuda side_;
  cudaEvent_t reached_;  ///< a point of either stream that the other one waits for
};

}  // namespace tern
