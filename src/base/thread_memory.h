// Memory that a thread keeps between the calls of kernels.
#pragma once

#include <cstddef>

namespace tern {

/// One block of at least the bytes asked for, which only grows: the system clears the pages of a new one, which
/// would cost as much as a tenth of a call. Large blocks ask for huge pages: kernels read them in random order,
/// and a miss of the address translation costs as much as one of the cache.
class ThreadMemory {
 public:
  ThreadMemory() = default;
  ThreadMemory(const ThreadMemory&) = delete;
  ThreadMemory& operator=(const ThreadMemory&) = delete;
  ~ThreadMemory();
  /// On lines of the cache; valid until the next call, its contents are what the last user left. Null only
  /// where nothing was ever asked for; throws std::bad_alloc.
  std::byte* reserve(std::size_t bytes);

 private:
  void release();
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tern
