// Memory of GPUs: blocks from the driver's stream-ordered pool, or, while a graph is captured, from an arena
// that all captured graphs share. Also what the host needs of a device without CUDA's types.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tern {

/// `bytes` of device memory, usable by all work enqueued from now on. Error(failed) when memory runs out.
std::byte* take_device_memory(int index, std::size_t bytes);
/// Gives a block back: work enqueued before may still use it.
void release_device_memory(int index, std::byte* block, std::size_t bytes);

struct DeviceMemory {
  std::int64_t live_bytes = 0;   ///< blocks that are taken now, the arena as a whole
  std::int64_t peak_bytes = 0;   ///< most since reset_device_memory_peak()
  std::int64_t total_bytes = 0;  ///< of the device
};
DeviceMemory device_memory(int index);
void reset_device_memory_peak(int index);

/// Enqueues a copy; either side may be host memory. Host memory that is not pinned is read before this returns.
void copy_bytes(int index, const void* source, void* target, std::size_t bytes);
void clear_bytes(int index, void* target, std::size_t bytes);

/// Copies beside the computation, on a stream of their own: copy_ahead() enqueues one that waits for the work
/// enqueued up to the last mark_reusable(); join_copies() lets later work wait for all of them.
void copy_ahead(int index, const void* source, void* target, std::size_t bytes);
void mark_reusable(int index);
void join_copies(int index);

/// Named ranges of work for GPU profilers (NVTX).
void push_profiler_range(const char* name);
void pop_profiler_range();

/// Host memory that copies run to and from without waiting.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes);
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A point in a device's work.
class DeviceEvent {
 public:
  DeviceEvent();
  ~DeviceEvent();
  DeviceEvent(DeviceEvent&& other) noexcept;
  DeviceEvent& operator=(DeviceEvent&& other) noexcept;
  /// Marks the end of all work enqueued so far.
  void record(int index);
  /// Waits for the point on the host and throws what went wrong before it.
  void wait() const;
  /// Milliseconds from `start` to this point, both passed.
  float since(const DeviceEvent& start) const;

 private:
  void* event_ = nullptr;
};

}  // namespace tern
