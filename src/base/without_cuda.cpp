// The device functions of base/cuda_memory.h, base/cuda_graph.h and base/cuda_path.h in a build without CUDA:
// memory is never there, and nothing else can be asked for.
#include "base/cuda_graph.h"
#include "base/cuda_memory.h"
#include "base/cuda_path.h"
#include "tern/error.h"

namespace tern {
namespace {

[[noreturn]] void refuse() {
  throw_error(ExitCode::failed, "cuda: not built in; set run.device=cpu, or build with the cuda preset");
}

}  // namespace

std::byte* take_device_memory(int, std::size_t) { return nullptr; }
void release_device_memory(int, std::byte*, std::size_t) {}
DeviceMemory device_memory(int) { return {}; }
void reset_device_memory_peak(int) {}

void copy_bytes(int, const void*, void*, std::size_t) { refuse(); }
void clear_bytes(int, void*, std::size_t) { refuse(); }
void copy_ahead(int, const void*, void*, std::size_t) { refuse(); }
void mark_reusable(int) { refuse(); }
void join_copies(int) { refuse(); }
void push_profiler_range(const char*) {}
void pop_profiler_range() {}
std::vector<std::string> take_reported_paths() { return {}; }

PinnedMemory::PinnedMemory(std::size_t) { refuse(); }
PinnedMemory::~PinnedMemory() = default;
PinnedMemory::PinnedMemory(PinnedMemory&&) noexcept = default;
PinnedMemory& PinnedMemory::operator=(PinnedMemory&&) noexcept = default;

DeviceEvent::DeviceEvent() { refuse(); }
DeviceEvent::~DeviceEvent() = default;
DeviceEvent::DeviceEvent(DeviceEvent&&) noexcept = default;
DeviceEvent& DeviceEvent::operator=(DeviceEvent&&) noexcept = default;
void DeviceEvent::record(int) { refuse(); }
void DeviceEvent::wait() const { refuse(); }
float DeviceEvent::since(const DeviceEvent&) const { refuse(); }

std::optional<DeviceGraph> DeviceGraph::capture(int, const std::function<void()>&) { refuse(); }
DeviceGraph::~DeviceGraph() = default;
DeviceGraph::DeviceGraph(DeviceGraph&&) noexcept = default;
DeviceGraph& DeviceGraph::operator=(DeviceGraph&&) noexcept = default;
void DeviceGraph::launch() { refuse(); }
void resize_graph_arena(int, std::size_t) { refuse(); }
std::size_t graph_arena_bytes(int) { return 0; }

}  // namespace tern
