// Work that is repeated on the same memory: enqueued by the host at first, launched as a captured graph later.
#pragma once

#include <functional>
#include <map>
#include <optional>

#include "base/cuda_graph.h"
#include "training/device_batch.h"

namespace tern {

/// Kinds of work. Each takes at least as much memory for a shape as those before it.
enum class GraphWork { update, evaluation, training };

/// What a graph does and on what.
struct GraphKey {
  GraphWork work = GraphWork::update;
  BatchShape shape;
  auto operator<=>(const GraphKey&) const = default;
};

/// All captured graphs of a device compute in one arena, each alone: training and evaluation share a cache, so
/// that neither takes memory of its own beside the other's.
class GraphCache {
 public:
  /// Without `is_enabled`, and on the CPU, run() only calls the body.
  GraphCache(Device device, bool is_enabled);

  /// Does the work of `body`, which must be the same for every call with one key but for the contents of memory
  /// that stays where it is until the last of these calls. The first time body() itself runs, which fills the
  /// libraries' caches and shows how much memory the work takes; the second time it is captured.
  void run(const GraphKey& key, const std::function<void()>& body);
  /// Most device memory that tensors took at once, graphs' memory included.
  std::int64_t peak_bytes() const;

 private:
  struct Work {
    std::size_t bytes = 0;  ///< of tensors and scratch at the peak
    std::optional<DeviceGraph> graph;
  };
  std::size_t measure(const GraphKey& key, const std::function<void()>& body);
  void make_room(const GraphKey& key);
  bool capture(Work& work, const std::function<void()>& body);
  void resize_arena(std::size_t bytes);

  Device device_;
  bool is_enabled_;
  std::map<GraphKey, Work> works_;
  std::int64_t peak_bytes_ = 0;
};

}  // namespace tern
