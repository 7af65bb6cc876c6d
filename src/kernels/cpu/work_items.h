// Items of work handed to workers one by one, and their buffers: one block for all workers, made by the
// calling thread (where it may throw). Results must not depend on which worker takes an item.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include <sys/mman.h>

#include "base/parallel.h"
#include "tern/device.h"

namespace tern::kernels {

/// Hands out aligned pieces of one block. With a null block it only measures.
template <Isa isa>
class Arena {
 public:
  explicit Arena(std::byte* block) : block_(block) {}
  template <class T>
  T* take(std::int64_t count) {
    std::byte* piece = block_ == nullptr ? nullptr : block_ + used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    return reinterpret_cast<T*>(piece);
  }
  std::size_t used() const { return used_; }
  static constexpr std::size_t alignment = 64;

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

/// Owner of aligned bytes. Large ones ask for huge pages: kernels read them in random order, and a miss of the
/// address translation costs as much as one of the cache.
template <Isa isa>
class AlignedBlock {
 public:
  explicit AlignedBlock(std::size_t bytes)
      : alignment_{bytes < huge_page ? Arena<isa>::alignment : huge_page},
        block_(static_cast<std::byte*>(::operator new(bytes, alignment_))) {
    if (bytes >= huge_page) madvise(block_, bytes, MADV_HUGEPAGE);  // a wish: failure changes nothing
  }
  AlignedBlock(const AlignedBlock&) = delete;
  AlignedBlock& operator=(const AlignedBlock&) = delete;
  ~AlignedBlock() { ::operator delete(block_, alignment_); }
  std::byte* data() const { return block_; }

 private:
  static constexpr std::size_t huge_page = std::size_t{2} << 20;
  std::align_val_t alignment_;
  std::byte* block_;
};

/// This thread's work area, valid until its next call. It only grows, and stays: the system clears the pages of
/// a new one, which would cost as much as a tenth of a call. Its contents are what the last user left.
template <Isa isa>
std::byte* work_area(std::size_t bytes) {
  thread_local std::unique_ptr<AlignedBlock<isa>> area;
  thread_local std::size_t size = 0;
  if (bytes > size) {
    size = 0;
    area.reset();
    area = std::make_unique<AlignedBlock<isa>>(bytes);
    size = bytes;
  }
  return area == nullptr ? nullptr : area->data();
}

/// Runs body(item, buffers) for item in [0, items) on all threads; `make(arena)` lays out one worker's buffers.
/// No call inside another: they would share the work area.
template <Isa isa, class Make, class Body>
void for_each_item(std::int64_t items, const Make& make, const Body& body) {
  const std::int64_t workers = items < threads() ? items : threads();
  if (workers <= 0) return;
  Arena<isa> measure(nullptr);
  make(measure);
  const std::size_t bytes = measure.used();
  std::byte* const block = work_area<isa>(bytes * static_cast<std::size_t>(workers));
  std::int64_t next = 0;
  parallel_for(workers, 1, [&](std::int64_t worker) {
    std::int64_t item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    if (item >= items) return;
    Arena<isa> arena(block + bytes * static_cast<std::size_t>(worker));
    auto buffers = make(arena);
    buffers.clear();
    for (; item < items; item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) body(item, buffers);
  });
}

}  // namespace tern::kernels
