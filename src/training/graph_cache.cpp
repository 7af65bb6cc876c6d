#include "training/graph_cache.h"

#include <algorithm>

#include "base/cuda_memory.h"
#include "tern/logging.h"

namespace tern {
namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr int most_attempts = 8;
/// Share of the device's memory that the graphs' memory and work outside of it may take together.
constexpr double most_memory = 0.9;

/// The arena rounds sizes and leaves gaps between blocks that eager work does not know.
std::size_t with_margin(std::size_t bytes) { return bytes + bytes / 16 + mebibyte; }

}  // namespace

GraphCache::GraphCache(Device device, bool is_enabled)
    : device_(device), is_enabled_(is_enabled && device.type == DeviceType::cuda) {}

void GraphCache::run(const GraphKey& key, const std::function<void()>& body) {
  if (!is_enabled_) return body();
  const auto found = works_.find(key);
  if (found == works_.end()) {
    const std::size_t bytes = measure(key, body);
    works_[key].bytes = bytes;
    return;
  }
  Work& work = found->second;
  if (!work.graph && !capture(work, body)) return body();
  work.graph->launch();
}

std::size_t GraphCache::measure(const GraphKey& key, const std::function<void()>& body) {
  make_room(key);
  const DeviceMemory before = device_memory(device_.index);
  peak_bytes_ = std::max(peak_bytes_, before.peak_bytes);
  reset_device_memory_peak(device_.index);
  body();
  return static_cast<std::size_t>(device_memory(device_.index).peak_bytes - before.live_bytes);
}

/// The first run for a key takes memory beside the graphs'. Where both may not fit, the graphs go and come
/// back.
void GraphCache::make_room(const GraphKey& key) {
  if (graph_arena_bytes(device_.index) == 0) return;
  std::optional<double> needed;  // at most; unknown before the first work that takes as much
  for (const auto& [known, work] : works_)
    if (known.work >= key.work && known.shape.capacity > 0)
      needed = std::max(needed.value_or(0.0), static_cast<double>(work.bytes) *
                                                  static_cast<double>(key.shape.capacity) /
                                                  static_cast<double>(known.shape.capacity));
  const DeviceMemory memory = device_memory(device_.index);
  const double most = most_memory * static_cast<double>(memory.total_bytes);
  if (!needed || static_cast<double>(memory.live_bytes) + *needed > most) resize_arena(0);
}

void GraphCache::resize_arena(std::size_t bytes) {
  synchronize(device_);
  for (auto& [key, work] : works_) work.graph.reset();
  resize_graph_arena(device_.index, bytes);
}

bool GraphCache::capture(Work& work, const std::function<void()>& body) {
  try {
    std::size_t needed = with_margin(work.bytes);
    for (int attempt = 0; attempt < most_attempts; ++attempt, needed += needed / 4) {
      needed = std::max(needed, graph_arena_bytes(device_.index));
      if (graph_arena_bytes(device_.index) < needed) resize_arena(needed);
      work.graph = DeviceGraph::capture(device_.index, body);
      if (work.graph) return true;
    }
  } catch (const OutOfMemory&) {  // told below
  }
  logging::warning("graphs",
                   "the GPU has no room for the memory of captured work: it runs uncaptured, which is slower");
  is_enabled_ = false;
  resize_arena(0);
  return false;
}

std::int64_t GraphCache::peak_bytes() const {
  if (device_.type == DeviceType::cpu) return 0;
  return std::max(peak_bytes_, device_memory(device_.index).peak_bytes);
}

}  // namespace tern
