#include "training/batch_feed.h"

#include <utility>

namespace tern {
namespace {

constexpr std::size_t slot_count = 2;

FedBatch facts_of(data::Batch&& batch, const BatchShape& shape) {
  FedBatch fed;
  fed.shape = shape;
  fed.records = batch.records;
  fed.tokens = static_cast<std::int64_t>(batch.tokens.size());
  fed.samples = std::move(batch.sample);
  return fed;
}

}  // namespace

BatchFeed::BatchFeed(Device device, BatchSource source, std::size_t largest_bytes)
    : device_(device), source_(std::move(source)), largest_bytes_(largest_bytes) {
  if (device.type == DeviceType::cpu) return;
  block_ = std::make_shared<Storage>(largest_bytes, device);
  for (std::size_t i = 0; i < slot_count; ++i)
    slots_.push_back(
        {PinnedMemory(largest_bytes), std::make_shared<Storage>(largest_bytes, device), DeviceEvent(), false});
  mark_reusable(device.index);  // copies that run ahead must not overtake the allocation
}

BatchFeed::~BatchFeed() {
  if (device_.type == DeviceType::cpu) return;
  try {
    join_copies(device_.index);
    synchronize(device_);
  } catch (const Error&) {  // told where the work was waited for
  }
}

void BatchFeed::restart(BatchSource source) {
  // A copy that is under way may go on: whatever comes to the same place is copied after it.
  sent_.reset();
  failure_ = nullptr;
  source_ = std::move(source);
}

std::optional<FedBatch> BatchFeed::send() {
  std::optional<data::Batch> batch = source_();
  if (!batch) return {};
  slot_ = (slot_ + 1) % slot_count;
  Slot& slot = slots_[slot_];
  if (slot.is_used) slot.taken.wait();
  const BatchShape shape = shape_of(*batch);
  const std::size_t bytes = packed_bytes(shape);
  ensure(bytes <= largest_bytes_, "batch feed: a batch of {} bytes for a block of {}", bytes, largest_bytes_);
  pack(*batch, shape, slot.host.data());
  copy_ahead(device_.index, slot.host.data(), slot.staged->address(), bytes);
  return facts_of(std::move(*batch), shape);
}

void BatchFeed::receive(const FedBatch& batch) {
  Slot& slot = slots_[slot_];
  join_copies(device_.index);
  copy_bytes(device_.index, slot.staged->address(), block_->address(), packed_bytes(batch.shape));
  slot.taken.record(device_.index);
  slot.is_used = true;
  mark_reusable(device_.index);
}

std::optional<FedBatch> BatchFeed::next() {
  if (device_.type == DeviceType::cpu) {
    std::optional<data::Batch> batch = source_();
    if (!batch) return {};
    const BatchShape shape = shape_of(*batch);
    DeviceBatch tensors = host_batch(*batch);
    FedBatch fed = facts_of(std::move(*batch), shape);
    fed.tensors = std::move(tensors);
    return fed;
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (!sent_) sent_ = send();
  if (!sent_) return {};
  FedBatch fed = std::move(*sent_);
  sent_.reset();
  receive(fed);
  fed.tensors = unpacked(fed.shape, block_);
  return fed;
}

void BatchFeed::prefetch() {
  if (device_.type == DeviceType::cpu || sent_ || failure_) return;
  try {
    sent_ = send();
  } catch (...) {
    failure_ = std::current_exception();
  }
}

}  // namespace tern
