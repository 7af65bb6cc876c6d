// Brings batches to the device: on a GPU the next one is copied while the present one is computed.
#pragma once

#include <array>
#include <functional>
#include <optional>

#include "base/cuda_memory.h"
#include "training/device_batch.h"

namespace tern {

/// The next batch, or nothing after the last.
using BatchSource = std::function<std::optional<data::Batch>()>;

struct FedBatch {
  BatchShape shape;
  DeviceBatch tensors;
  std::int64_t records = 0, tokens = 0;  ///< real tokens
  std::vector<std::int64_t> samples;
};

/// On a GPU every batch comes to lie in one block that stays where it is: graphs have its address baked in.
class BatchFeed {
 public:
  /// No batch may need more than `largest_bytes` when packed; on the CPU that does not matter.
  BatchFeed(Device device, BatchSource source, std::size_t largest_bytes);
  ~BatchFeed();
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  /// Goes on with the batches of another source; what was fetched ahead from the one before is dropped.
  void restart(BatchSource source);
  /// The next batch. On a GPU its tensors are those of the batch before, whose work is enqueued already.
  std::optional<FedBatch> next();
  /// Fetches the batch after that and begins to copy it. Errors are kept for next(). Nothing on the CPU.
  void prefetch();

 private:
  /// A batch on its way: the host side is written again only after the device took the one before.
  struct Slot {
    PinnedMemory host;
    std::shared_ptr<Storage> staged;
    DeviceEvent taken;
    bool is_used = false;
  };
  std::optional<FedBatch> send();
  void receive(const FedBatch& batch);

  Device device_;
  BatchSource source_;
  std::size_t largest_bytes_;
  std::shared_ptr<Storage> block_;
  std::vector<Slot> slots_;
  std::size_t slot_ = 0;  ///< of the batch that was sent last
  std::optional<FedBatch> sent_;
  std::exception_ptr failure_;
};

}  // namespace tern
