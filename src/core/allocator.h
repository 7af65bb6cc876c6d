// Memory of tensors. Freed host blocks of one size are kept and handed out again, because fresh pages cost more
// than the kernels that write them; the kept bytes never exceed the peak of live bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tern/device.h"

namespace tern {

/// One block, charged to the memory scope that is open when it is made.
class Storage {
 public:
  /// Throws Error(failed) with the largest owners when memory runs out.
  Storage(std::size_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* address() const { return address_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  std::byte* address_ = nullptr;
  std::size_t bytes_;
  Device device_;
  int owner_;
};

}  // namespace tern
