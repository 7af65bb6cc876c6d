// Offsets inside one region: best fit with merging. The order of calls alone decides the offsets, so that work
// in one stream may reuse a range as soon as it is released.
#pragma once

#include <cstddef>
#include <map>
#include <optional>

namespace tern {

class Arena {
 public:
  static constexpr std::size_t alignment = 256;
  explicit Arena(std::size_t bytes);
  /// Offset of a free range, or nothing where no range is large enough.
  std::optional<std::size_t> take(std::size_t bytes);
  /// `offset` as take() gave it.
  void release(std::size_t offset);
  bool is_unused() const { return taken_.empty(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  std::map<std::size_t, std::size_t> free_, taken_;  // offset -> size
};

}  // namespace tern
