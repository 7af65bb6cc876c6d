#include "base/arena.h"

#include <algorithm>

#include "tern/error.h"

namespace tern {

Arena::Arena(std::size_t bytes) : bytes_(bytes / alignment * alignment) {
  if (bytes_ > 0) free_[0] = bytes_;
}

std::optional<std::size_t> Arena::take(std::size_t bytes) {
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  auto best = free_.end();
  for (auto range = free_.begin(); range != free_.end(); ++range)
    if (range->second >= size && (best == free_.end() || range->second < best->second)) best = range;
  if (best == free_.end()) return std::nullopt;
  const auto [offset, room] = *best;
  free_.erase(best);
  if (room > size) free_[offset + size] = room - size;
  taken_[offset] = size;
  return offset;
}

void Arena::release(std::size_t offset) {
  const auto found = taken_.find(offset);
  ensure(found != taken_.end(), "arena: offset {} was not taken", offset);
  std::size_t first = offset, size = found->second;
  taken_.erase(found);
  auto next = free_.lower_bound(first);
  if (next != free_.end() && next->first == first + size) {
    size += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == first) {
      first = before->first;
      size += before->second;
      free_.erase(before);
    }
  }
  free_[first] = size;
}

}  // namespace tern
