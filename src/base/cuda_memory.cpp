#include "base/cuda_memory.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/cuda.h"
#include "base/cuda_device.h"
#include "base/cuda_graph.h"

namespace tern {
namespace {

/// Memory of one device. All calls come from the thread that enqueues its work, or after that thread is done.
struct Pool {
  std::mutex mutex;
  std::int64_t live = 0, peak = 0;
  std::byte* region = nullptr;
  std::unique_ptr<Arena> arena;
  int arenas = 0;  ///< made so far
  bool is_capturing = false, is_exhausted = false;
  bool is_held = false;  ///< by hold_released_memory()
  struct Block {
    std::byte* data;
    std::size_t bytes;
  };
  std::vector<Block> released;  ///< blocks that cannot be reused yet

  bool owns(const std::byte* block) const {
    return arena && block >= region && block < region + arena->bytes();
  }
  void charge(std::int64_t bytes) {
    live += bytes;
    peak = std::max(peak, live);
  }
};

/// Never destroyed: tensors with static lifetime may outlive every other static.
Pool& pool(int index) {
  static auto* pools = new std::vector<std::unique_ptr<Pool>>;
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  while (static_cast<int>(pools->size()) <= index) pools->push_back(std::make_unique<Pool>());
  return *(*pools)[static_cast<std::size_t>(index)];
}

/// Lets blocks be reused. A capture must not contain the release of a block from before.
void reuse_released(Cuda& cuda, Pool& memory) {
  if (memory.is_held) return;
  std::erase_if(memory.released, [&](const Pool::Block& block) {
    if (memory.owns(block.data)) {
      memory.arena->release(static_cast<std::size_t>(block.data - memory.region));
      return true;
    }
    if (memory.is_capturing) return false;
    memory.charge(-static_cast<std::int64_t>(block.bytes));
    cudaFreeAsync(block.data, cuda.stream);  // fails only after an earlier, reported error
    return true;
  });
}

std::byte* take_from_pool(const Cuda& cuda, std::size_t bytes) {
  void* block = nullptr;
  const cudaError_t status = cudaMallocAsync(&block, bytes, cuda.stream);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the error is told by the caller, the device goes on
    return nullptr;
  }
  check_cuda(status, "cudaMallocAsync");
  return static_cast<std::byte*>(block);
}

struct Copies {
  cudaStream_t stream = nullptr;
  cudaEvent_t reusable = nullptr, done = nullptr;
  bool is_marked = false;
};
Copies& copies() {
  static auto* instance = [] {
    auto* made = new Copies;
    check_cuda(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cuda(cudaEventCreateWithFlags(&made->reusable, cudaEventDisableTiming), "cudaEventCreate");
    check_cuda(cudaEventCreateWithFlags(&made->done, cudaEventDisableTiming), "cudaEventCreate");
    return made;
  }();
  return *instance;
}

}  // namespace

namespace {

std::byte* find_memory(const Cuda& cuda, std::size_t bytes) {
  Pool& memory = pool(cuda.index);
  const std::scoped_lock lock(memory.mutex);
  if (memory.is_capturing) {
    const std::optional<std::size_t> offset = memory.arena ? memory.arena->take(bytes) : std::nullopt;
    memory.is_exhausted |= !offset;
    return offset ? memory.region + *offset : nullptr;
  }
  std::byte* block = take_from_pool(cuda, bytes);
  if (block != nullptr) memory.charge(static_cast<std::int64_t>(bytes));
  return block;
}

}  // namespace

std::byte* find_device_memory(int index, std::size_t bytes) { return find_memory(cuda_context(index), bytes); }

std::byte* take_device_memory(int index, std::size_t bytes) {
  return take_device_memory(cuda_context(index), bytes);
}

std::byte* take_device_memory(const Cuda& cuda, std::size_t bytes) {
  std::byte* block = find_memory(cuda, bytes);
  if (block == nullptr)
    throw OutOfMemory(format_text(
        "out of memory on cuda:{}: a kernel asked {} MiB for its own work; lower training.batch_size or raise "
        "training.accumulate",
        cuda.index, bytes >> 20));
  return block;
}

void release_device_memory(int index, std::byte* block, std::size_t bytes) {
  Cuda& cuda = cuda_context(index);
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  memory.released.push_back({block, bytes});
  reuse_released(cuda, memory);
}

void hold_released_memory(int index) {
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  ensure(!memory.is_held, "cuda:{}: work beside the stream while there is such work", index);
  memory.is_held = true;
}

void reuse_released_memory(int index) {
  Cuda& cuda = cuda_context(index);
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  memory.is_held = false;
  reuse_released(cuda, memory);
}

DeviceMemory device_memory(int index) {
  cuda_context(index);
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  return {memory.live, memory.peak, static_cast<std::int64_t>(total)};
}

void reset_device_memory_peak(int index) {
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  memory.peak = memory.live;
}

void copy_bytes(int index, const void* source, void* target, std::size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, cuda_context(index).stream),
             "cudaMemcpyAsync");
}

void clear_bytes(int index, void* target, std::size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(target, 0, bytes, cuda_context(index).stream), "cudaMemsetAsync");
}

void copy_ahead(int index, const void* source, void* target, std::size_t bytes) {
  cuda_context(index);
  Copies& side = copies();
  if (side.is_marked) check_cuda(cudaStreamWaitEvent(side.stream, side.reusable), "cudaStreamWaitEvent");
  check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, side.stream), "cudaMemcpyAsync");
}

void mark_reusable(int index) {
  Copies& side = copies();
  check_cuda(cudaEventRecord(side.reusable, cuda_context(index).stream), "cudaEventRecord");
  side.is_marked = true;
}

void join_copies(int index) {
  Copies& side = copies();
  check_cuda(cudaEventRecord(side.done, side.stream), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(cuda_context(index).stream, side.done), "cudaStreamWaitEvent");
}

PinnedMemory::PinnedMemory(std::size_t bytes) : bytes_(bytes) {
  void* block = nullptr;
  check_cuda(cudaMallocHost(&block, std::max<std::size_t>(bytes, 1)), "cudaMallocHost");
  data_ = static_cast<std::byte*>(block);
}
PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) cudaFreeHost(data_);
}
PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceEvent::DeviceEvent() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  event_ = event;
}
DeviceEvent::~DeviceEvent() {
  if (event_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}
DeviceEvent::DeviceEvent(DeviceEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
DeviceEvent& DeviceEvent::operator=(DeviceEvent&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}
void DeviceEvent::record(int index) {
  check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(event_), cuda_context(index).stream), "cudaEventRecord");
}
void DeviceEvent::wait() const {
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "the device's work");
}
float DeviceEvent::since(const DeviceEvent& start) const {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start.event_),
                                  static_cast<cudaEvent_t>(event_)),
             "cudaEventElapsedTime");
  return milliseconds;
}

void resize_graph_arena(int index, std::size_t bytes) {
  Cuda& cuda = cuda_context(index);
  check_cuda(cudaStreamSynchronize(cuda.stream), "the device's work");
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  ++memory.arenas;
  ensure(!memory.is_capturing && (!memory.arena || memory.arena->is_unused()), "graph arena: resized in use");
  if (memory.arena) {
    memory.charge(-static_cast<std::int64_t>(memory.arena->bytes()));
    check_cuda(cudaFreeAsync(memory.region, cuda.stream), "cudaFreeAsync");
    memory.arena.reset();
    memory.region = nullptr;
  }
  auto arena = std::make_unique<Arena>(bytes);
  if (arena->bytes() == 0) return;
  memory.region = take_from_pool(cuda, arena->bytes());
  if (memory.region == nullptr)
    throw OutOfMemory(format_text(
        "out of memory: a captured step needs {} MiB of the GPU; lower training.batch_size or raise "
        "training.accumulate",
        bytes >> 20));
  memory.arena = std::move(arena);
  memory.charge(static_cast<std::int64_t>(memory.arena->bytes()));
}

std::size_t graph_arena_bytes(int index) {
  Pool& memory = pool(index);
  const std::scoped_lock lock(memory.mutex);
  return memory.arena ? memory.arena->bytes() : 0;
}

namespace {

/// Lets take_device_memory() use the arena for as long as it lives.
class CaptureScope {
 public:
  CaptureScope(Cuda& cuda, Pool& memory) : cuda_(cuda), memory_(memory) {
    const std::scoped_lock lock(memory.mutex);
    memory.is_capturing = true;
    memory.is_exhausted = false;
  }
  ~CaptureScope() {
    const std::scoped_lock lock(memory_.mutex);
    memory_.is_capturing = false;
    reuse_released(cuda_, memory_);
  }
  CaptureScope(const CaptureScope&) = delete;
  CaptureScope& operator=(const CaptureScope&) = delete;

 private:
  Cuda& cuda_;
  Pool& memory_;
};

cudaGraph_t record_work(Cuda& cuda, const std::function<void()>& body) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(cuda.stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check_cuda(cudaStreamEndCapture(cuda.stream, &graph), "cudaStreamEndCapture");
  return graph;
}

}  // namespace

std::optional<DeviceGraph> DeviceGraph::capture(int index, const std::function<void()>& body) {
  Cuda& cuda = cuda_context(index);
  Pool& memory = pool(index);
  cudaGraph_t graph = nullptr;
  {
    const CaptureScope scope(cuda, memory);
    try {
      graph = record_work(cuda, body);
    } catch (const Error&) {
      if (!memory.is_exhausted) throw;
      return std::nullopt;
    }
  }
  if (memory.is_exhausted) {
    cudaGraphDestroy(graph);
    return std::nullopt;
  }
  ensure(!memory.arena || memory.arena->is_unused(), "graph: tensors of the captured work outlive it");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "cudaGraphInstantiate");
  return DeviceGraph(index, executable, memory.arenas);
}

DeviceGraph::~DeviceGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
}
DeviceGraph::DeviceGraph(DeviceGraph&& other) noexcept
    : index_(other.index_), executable_(std::exchange(other.executable_, nullptr)), arena_(other.arena_) {}
DeviceGraph& DeviceGraph::operator=(DeviceGraph&& other) noexcept {
  std::swap(index_, other.index_);
  std::swap(executable_, other.executable_);
  std::swap(arena_, other.arena_);
  return *this;
}
void DeviceGraph::launch() {
  ensure(arena_ == pool(index_).arenas, "graph: launched after its arena was resized");
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), cuda_context(index_).stream),
             "cudaGraphLaunch");
}

}  // namespace tern
