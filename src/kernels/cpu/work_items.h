// Items of work handed to workers one by one, and their buffers: one block for all workers, made by the
// calling thread (where it may throw). Results must not depend on which worker takes an item.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/parallel.h"
#include "base/thread_memory.h"
#include "kernels/cpu/scratch.h"
#include "tern/device.h"

namespace tern::kernels {

/// This thread's work area for all of its workers, valid until its next call and shared by all kernels of an
/// instruction set. Its contents are what the last user left.
template <Isa isa>
std::byte* work_area(std::size_t bytes) {
  thread_local ThreadMemory memory;
  return memory.reserve(bytes);
}

/// Runs body(item, buffers) for item in [0, items) on all threads; `make(layout)` lays out one worker's
/// buffers. No call inside another: they would share the work area.
template <Isa isa, class Make, class Body>
void for_each_item(std::int64_t items, const Make& make, const Body& body) {
  const std::int64_t workers = items < threads() ? items : threads();
  if (workers <= 0) return;
  Layout sizes(nullptr);
  make(sizes);
  const std::size_t bytes = sizes.bytes();
  std::byte* const block = work_area<isa>(bytes * static_cast<std::size_t>(workers));
  std::int64_t next = 0;
  parallel_for(workers, 1, [&](std::int64_t worker) {
    std::int64_t item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    if (item >= items) return;
    Layout places(block + bytes * static_cast<std::size_t>(worker));
    auto buffers = make(places);
    buffers.clear();
    for (; item < items; item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) body(item, buffers);
  });
}

}  // namespace tern::kernels
