// Live-memory accounting: how many bytes of tensors exist, their peak, and which module allocated them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tern {

struct MemoryStatistics {
  std::int64_t live_bytes = 0;    ///< bytes of all tensors alive now
  std::int64_t peak_bytes = 0;    ///< largest live_bytes since the last reset_peak_memory()
  std::int64_t live_tensors = 0;  ///< storages alive now
};
MemoryStatistics memory_statistics();
void reset_peak_memory();

struct MemoryOwner {
  std::string path;  ///< module path, "" outside any module
  std::int64_t live_bytes = 0, peak_bytes = 0;
};
/// Owners by descending peak.
std::vector<MemoryOwner> memory_by_owner();

/// While alive, tensors allocated by this thread are charged to `path`, and GPU profilers show its work under
/// that name (NVTX).
class ModuleScope {
 public:
  explicit ModuleScope(std::string_view path);
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;

 private:
  int outer_;
};

}  // namespace tern
