#include "tern/memory.h"

#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/host_memory.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

const MemoryOwner* find(const std::vector<MemoryOwner>& owners, std::string_view path) {
  for (const MemoryOwner& owner : owners)
    if (owner.path == path) return &owner;
  return nullptr;
}

TEST(Memory, counts_storages_not_views) {
  const MemoryStatistics before = memory_statistics();
  {
    const Tensor x = empty({1000}, DType::float32), view = x.narrowed(0, 10, 20), copy_of_x = x;
    const MemoryStatistics during = memory_statistics();
    EXPECT_EQ(during.live_tensors, before.live_tensors + 1);
    EXPECT_GE(during.live_bytes, before.live_bytes + 4000);
    EXPECT_LE(during.live_bytes, before.live_bytes + 4000 * 9 / 8 + 64);
  }
  EXPECT_EQ(memory_statistics().live_tensors, before.live_tensors);
  EXPECT_EQ(memory_statistics().live_bytes, before.live_bytes);
}

TEST(Memory, peak_is_the_largest_since_the_reset) {
  reset_peak_memory();
  const std::int64_t start = memory_statistics().live_bytes;
  { const Tensor x = empty({1 << 16}, DType::uint8), y = empty({1 << 16}, DType::uint8); }
  { const Tensor x = empty({1 << 16}, DType::uint8); }
  EXPECT_EQ(memory_statistics().peak_bytes, start + (2 << 16));
  reset_peak_memory();
  EXPECT_EQ(memory_statistics().peak_bytes, start);
}

TEST(Memory, blocks_are_aligned_to_cache_lines) {
  for (const std::int64_t size : {0, 1, 63, 65, 5000})
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(empty({size}, DType::uint8).address()) % 64, 0u);
}

TEST(Memory, a_freed_block_is_used_again) {
  const Tensor kept = empty({100000}, DType::float32);
  const std::byte* address;
  {
    const Tensor x = empty({50000}, DType::float32);
    address = x.address();
  }
  EXPECT_EQ(empty({50000}, DType::float32).address(), address);
}

// Sanitizers keep books in addresses of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(Memory, freed_blocks_are_given_back_where_a_new_one_would_not_fit_beside_them) {
  const auto addresses = [] {
    std::int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages * sysconf(_SC_PAGE_SIZE);
  };
  const std::int64_t all = available_memory(), before = addresses();
  { const Tensor x = empty({all / 5 * 2}, DType::uint8); }  // untouched: addresses without memory
  const Tensor y = empty({all / 5 * 3}, DType::uint8);
  EXPECT_LT(addresses() - before, all / 5 * 4);
  const Error error = thrown_error([&] { empty({all / 5 * 3}, DType::uint8); });
  EXPECT_TRUE(mentions(error, "out of memory on cpu: asked ")) << error.what();
}
#endif

TEST(Memory, owners_are_charged_until_their_tensors_die) {
  Tensor outlives;
  {
    const ModuleScope outer("test.outer");
    const Tensor a = empty({1 << 12}, DType::uint8);
    {
      const ModuleScope inner("test.inner");
      outlives = empty({1 << 14}, DType::uint8);
    }
    const Tensor b = empty({1 << 12}, DType::uint8);
    EXPECT_EQ(find(memory_by_owner(), "test.outer")->live_bytes, 2 << 12);
  }
  EXPECT_EQ(find(memory_by_owner(), "test.outer")->live_bytes, 0);
  EXPECT_EQ(find(memory_by_owner(), "test.outer")->peak_bytes, 2 << 12);
  EXPECT_EQ(find(memory_by_owner(), "test.inner")->live_bytes, 1 << 14);
  outlives = Tensor();
  EXPECT_EQ(find(memory_by_owner(), "test.inner")->live_bytes, 0);
}

TEST(Memory, scopes_belong_to_their_thread) {
  const ModuleScope scope("test.main_thread");
  std::thread([] {
    const Tensor x = empty({1 << 15}, DType::uint8);
    EXPECT_EQ(find(memory_by_owner(), "test.main_thread")->live_bytes, 0);
  }).join();
}

TEST(Memory, owners_come_by_falling_peak) {
  const std::vector<MemoryOwner> owners = memory_by_owner();
  ASSERT_FALSE(owners.empty());
  for (std::size_t i = 1; i < owners.size(); ++i) EXPECT_GE(owners[i - 1].peak_bytes, owners[i].peak_bytes);
}

TEST(Memory, running_out_names_the_largest_owners) {
  const ModuleScope scope("test.greedy");
  const Tensor x = empty({1 << 20}, DType::uint8);
  const Error error = thrown_error([] { empty({std::int64_t{1} << 55}, DType::uint8); });
  EXPECT_TRUE(mentions(error, "out of memory on cpu: asked 34359738368 MiB"));
  EXPECT_TRUE(mentions(error, "test.greedy 1 MiB"));
  EXPECT_TRUE(mentions(error, "lower training.batch_size"));
  const auto take = [] { empty({std::int64_t{1} << 55}, DType::uint8); };
  EXPECT_THROW(with_context([] { return "a step"; }, take), OutOfMemory);
}

}  // namespace
}  // namespace tern::test
