#include "base/thread_memory.h"

#include <new>

#include <sys/mman.h>

namespace tern {
namespace {

constexpr std::size_t cache_line = 64, huge_page = std::size_t{2} << 20;

std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t{bytes < huge_page ? cache_line : huge_page};
}

}  // namespace

ThreadMemory::~ThreadMemory() { release(); }

void ThreadMemory::release() {
  ::operator delete(data_, alignment_of(bytes_));
  data_ = nullptr;
  bytes_ = 0;
}

std::byte* ThreadMemory::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return data_;
  release();
  data_ = static_cast<std::byte*>(::operator new(bytes, alignment_of(bytes)));
  bytes_ = bytes;
  if (bytes >= huge_page) madvise(data_, bytes, MADV_HUGEPAGE);  // a wish: failure changes nothing
  return data_;
}

}  // namespace tern
