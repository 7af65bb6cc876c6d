// Memory of kernels: arrays for one call, and scratch that each thread keeps between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "base/thread_memory.h"

namespace tern::kernels {
namespace {

constexpr std::size_t cache_line = 64;

/// Array of `count` elements for the length of a call; throws std::bad_alloc.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : data_(static_cast<T*>(::operator new (sizeof(T) * static_cast<std::size_t>(count > 0 ? count : 1),
                                              std::align_val_t{cache_line}))) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete (data_, std::align_val_t{cache_line}); }
  T* data() const { return data_; }
  T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

/// Places arrays one after another, each on its own cache lines. Over no memory it only counts the bytes.
class Layout {
 public:
  explicit Layout(std::byte* memory) : memory_(memory) {}
  template <class T>
  T* take(std::int64_t count) {
    std::byte* const place = memory_ ? memory_ + bytes_ : nullptr;
    bytes_ += (sizeof(T) * static_cast<std::size_t>(count) + cache_line - 1) / cache_line * cache_line;
    return reinterpret_cast<T*>(place);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_ = 0;
};

inline std::byte* thread_bytes(std::size_t bytes) {
  thread_local ThreadMemory memory;
  return memory.reserve(bytes);
}

/// Constructs Arrays(layout, args...) over this thread's memory, valid until the next call on this thread. Its
/// contents are what the last user left.
template <class Arrays, class... Args>
Arrays thread_scratch(const Args&... args) {
  Layout sizes(nullptr);
  static_cast<void>(Arrays(sizes, args...));
  Layout places(thread_bytes(sizes.bytes()));
  return Arrays(places, args...);
}

}  // namespace
}  // namespace tern::kernels
