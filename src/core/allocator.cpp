// Host blocks with reuse, and the accounts behind tern/memory.h.
#include "core/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/cuda_device.h"
#include "base/cuda_memory.h"
#include "base/has_cuda.h"
#include "base/host_memory.h"
#include "tern/error.h"
#include "tern/memory.h"

namespace tern {
namespace {

constexpr std::size_t alignment = 64;

/// Sizes are rounded to an eighth of their power of two, so that ragged batches of similar size share blocks.
std::size_t rounded(std::size_t bytes) {
  std::size_t step = alignment;
  while (step * 16 <= bytes) step *= 2;
  return (std::max<std::size_t>(bytes, 1) + step - 1) / step * step;
}

struct Accounts {
  std::mutex mutex;
  MemoryStatistics total;
  std::vector<MemoryOwner> owners{MemoryOwner{}};
  std::unordered_map<std::string, int> index{{"", 0}};
  std::map<std::size_t, std::vector<std::byte*>> kept;
  std::int64_t kept_bytes = 0;
  std::int64_t host_live = 0, host_largest = 0;

  void charge(int owner, std::int64_t bytes) {
    total.live_bytes += bytes;
    total.peak_bytes = std::max(total.peak_bytes, total.live_bytes);
    total.live_tensors += bytes > 0 ? 1 : -1;
    MemoryOwner& account = owners[static_cast<std::size_t>(owner)];
    account.live_bytes += bytes;
    account.peak_bytes = std::max(account.peak_bytes, account.live_bytes);
  }
  void charge_host(std::int64_t bytes) {
    host_live += bytes;
    host_largest = std::max(host_largest, host_live);
  }
  std::byte* take_kept(std::size_t bytes) {
    const auto found = kept.find(bytes);
    if (found == kept.end() || found->second.empty()) return nullptr;
    std::byte* block = found->second.back();
    found->second.pop_back();
    kept_bytes -= static_cast<std::int64_t>(bytes);
    return block;
  }
  void release_kept() {
    for (auto& [size, blocks] : kept)
      for (std::byte* block : blocks) std::free(block);
    kept.clear();
    kept_bytes = 0;
  }
};

/// Never destroyed: tensors with static lifetime may outlive every other static.
Accounts& accounts() {
  static auto* instance = new Accounts;
  return *instance;
}
thread_local int current_owner = 0;

/// Systems hand out more memory than there is and end the process when it is touched: ask for no more than
/// there was to be had when the first tensor was made.
std::int64_t host_memory() {
  static const std::int64_t bytes = available_memory();
  return bytes;
}

/// Null when memory runs out.
std::byte* take_host_block(Accounts& books, std::size_t bytes) {
  const std::int64_t room = host_memory() - books.host_live, asked = static_cast<std::int64_t>(bytes);
  if (asked > room) return nullptr;
  if (std::byte* block = books.take_kept(bytes)) return block;
  if (asked > room - books.kept_bytes) books.release_kept();
  if (void* block = std::aligned_alloc(alignment, bytes)) return static_cast<std::byte*>(block);
  books.release_kept();
  return static_cast<std::byte*>(std::aligned_alloc(alignment, bytes));
}

std::string describe_owners(std::vector<MemoryOwner> owners) {
  std::sort(owners.begin(), owners.end(), [](auto& a, auto& b) { return a.live_bytes > b.live_bytes; });
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(owners.size(), 3); ++i)
    text += (i ? ", " : "") + (owners[i].path.empty() ? "(outside modules)" : owners[i].path) + " " +
            std::to_string(owners[i].live_bytes >> 20) + " MiB";
  return text;
}

}  // namespace

Storage::Storage(std::size_t bytes, Device device)
    : bytes_(rounded(bytes)), device_(device), owner_(current_owner) {
  Accounts& books = accounts();
  const std::scoped_lock lock(books.mutex);
  if constexpr (has_cuda)
    if (device.type == DeviceType::cuda) address_ = find_device_memory(device.index, bytes_);
  if (device.type == DeviceType::cpu) address_ = take_host_block(books, bytes_);
  require(has_cuda || device.type == DeviceType::cpu,
          "allocate: this build has no {} memory; build with the cuda preset", device);
  if (address_ == nullptr)
    throw OutOfMemory(format_text(
        "out of memory on {}: asked {} MiB with {} MiB in use; largest: {}; lower training.batch_size or raise "
        "training.accumulate",
        device, bytes_ >> 20, books.total.live_bytes >> 20, describe_owners(books.owners)));
  books.charge(owner_, static_cast<std::int64_t>(bytes_));
  if (device.type == DeviceType::cpu) books.charge_host(static_cast<std::int64_t>(bytes_));
}

Storage::~Storage() {
  Accounts& books = accounts();
  const std::scoped_lock lock(books.mutex);
  books.charge(owner_, -static_cast<std::int64_t>(bytes_));
  if constexpr (has_cuda) {
    if (device_.type == DeviceType::cuda) {
      release_device_memory(device_.index, address_, bytes_);
      return;
    }
  }
  books.charge_host(-static_cast<std::int64_t>(bytes_));
  if (books.kept_bytes + static_cast<std::int64_t>(bytes_) > books.host_largest) books.release_kept();
  books.kept[bytes_].push_back(address_);
  books.kept_bytes += static_cast<std::int64_t>(bytes_);
}

MemoryStatistics memory_statistics() {
  const std::scoped_lock lock(accounts().mutex);
  return accounts().total;
}

void reset_peak_memory() {
  Accounts& books = accounts();
  const std::scoped_lock lock(books.mutex);
  books.total.peak_bytes = books.total.live_bytes;
  for (MemoryOwner& owner : books.owners) owner.peak_bytes = owner.live_bytes;
}

std::vector<MemoryOwner> memory_by_owner() {
  Accounts& books = accounts();
  const std::scoped_lock lock(books.mutex);
  std::vector<MemoryOwner> owners = books.owners;
  std::sort(owners.begin(), owners.end(), [](auto& a, auto& b) { return a.peak_bytes > b.peak_bytes; });
  return owners;
}

ModuleScope::ModuleScope(std::string_view path) : outer_(current_owner) {
  Accounts& books = accounts();
  const std::scoped_lock lock(books.mutex);
  const auto [found, is_new] =
      books.index.try_emplace(std::string(path), static_cast<int>(books.owners.size()));
  if (is_new) books.owners.push_back({std::string(path), 0, 0});
  current_owner = found->second;
  if constexpr (has_cuda) push_profiler_range(found->first.c_str());
}

ModuleScope::~ModuleScope() {
  current_owner = outer_;
  if constexpr (has_cuda) pop_profiler_range();
}

}  // namespace tern
