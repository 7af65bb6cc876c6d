// Captured work of a device, launched again as one.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

namespace tern {

class DeviceGraph {
 public:
  /// Records the work that body() enqueues; none of it runs. Tensors made inside take their memory from the
  /// graph arena and must be gone when body() returns; what shall outlive a launch is written to memory from
  /// before. Nothing where the arena is too small; what body() throws otherwise is thrown on.
  static std::optional<DeviceGraph> capture(int index, const std::function<void()>& body);
  ~DeviceGraph();
  DeviceGraph(DeviceGraph&& other) noexcept;
  DeviceGraph& operator=(DeviceGraph&& other) noexcept;
  void launch();

 private:
  DeviceGraph(int index, void* executable, int arena) : index_(index), executable_(executable), arena_(arena) {}
  int index_ = 0;
  void* executable_ = nullptr;
  int arena_ = 0;  ///< which of the arenas, counted by resize_graph_arena(), it computes in
};

/// Makes the arena of device `index` `bytes` large. Graphs captured before cannot be launched any more.
void resize_graph_arena(int index, std::size_t bytes);
std::size_t graph_arena_bytes(int index);

}  // namespace tern
