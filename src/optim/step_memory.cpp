#include <array>
#include <cstddef>

#include "base/cuda_memory.h"
#include "core/accumulate.h"
#include "tern/optimizer.h"

namespace tern {
namespace {

constexpr std::size_t slots = 4;
constexpr std::size_t state_bytes = sizeof(StepState);
/// What begin() writes stands in front of what only kernels change.
constexpr std::size_t input_bytes = offsetof(StepState, updates);
static_assert(offsetof(StepState, score) < input_bytes && offsetof(StepState, beta1) < input_bytes);

}  // namespace

/// Pinned memory that copies to the device start from, slot by slot: a slot is written again only after its
/// copy ran. One more slot takes what read() fetches.
struct StepMemory::Outbox {
  PinnedMemory memory{(slots + 1) * state_bytes};
  std::array<DeviceEvent, slots> sent;
  std::array<bool, slots> is_used{};
  std::size_t next = 0;
};

StepMemory::StepMemory(Device device)
    : device_(device),
      memory_(zeros({static_cast<std::int64_t>(state_bytes)}, DType::uint8, device)),
      state_(reinterpret_cast<StepState*>(memory_.address())) {
  if (device.type == DeviceType::cuda) outbox_ = std::make_unique<Outbox>();
  const StepState start;
  send(0, &start, state_bytes);
}

StepMemory::~StepMemory() = default;

void StepMemory::send(std::size_t offset, const void* source, std::size_t bytes) {
  std::byte* target = memory_.address() + offset;
  if (!outbox_) {
    std::memcpy(target, source, bytes);
    return;
  }
  const std::size_t slot = outbox_->next;
  outbox_->next = (slot + 1) % slots;
  if (outbox_->is_used[slot]) outbox_->sent[slot].wait();
  std::byte* staged = outbox_->memory.data() + slot * state_bytes;
  std::memcpy(staged, source, bytes);
  copy_bytes(device_.index, staged, target, bytes);
  outbox_->sent[slot].record(device_.index);
  outbox_->is_used[slot] = true;
}

void StepMemory::begin(std::uint32_t step, double learning_rate, double beta1) {
  StepState inputs;
  inputs.step = step;
  inputs.learning_rate = learning_rate;
  inputs.beta1 = beta1;
  send(0, &inputs, input_bytes);
}

void StepMemory::set_step(std::uint32_t step) { send(offsetof(StepState, step), &step, sizeof step); }

void StepMemory::set_updates(std::int64_t updates) {
  send(offsetof(StepState, updates), &updates, sizeof updates);
}

StepState StepMemory::read() const {
  if (!outbox_) return *state_;
  std::byte* fetched = outbox_->memory.data() + slots * state_bytes;
  copy_bytes(device_.index, state_, fetched, state_bytes);
  synchronize(device_);
  StepState state;
  std::memcpy(&state, fetched, state_bytes);
  return state;
}

}  // namespace tern
