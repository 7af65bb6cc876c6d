#include "base/arena.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "support/thrown_error.h"

namespace tern::test {
namespace {

TEST(Arena, ranges_do_not_overlap_and_merge_again) {
  Arena arena(1 << 16);
  std::mt19937 draw(1);
  std::map<std::size_t, std::size_t> taken;
  for (int i = 0; i < 5000; ++i) {
    if (draw() % 2 == 0 && !taken.empty()) {
      const auto victim = std::next(taken.begin(), static_cast<std::ptrdiff_t>(draw() % taken.size()));
      arena.release(victim->first);
      taken.erase(victim);
      continue;
    }
    const std::size_t bytes = draw() % 5000;
    const std::optional<std::size_t> offset = arena.take(bytes);
    if (!offset) continue;
    EXPECT_EQ(*offset % Arena::alignment, 0);
    EXPECT_LE(*offset + bytes, arena.bytes());
    const auto next = taken.lower_bound(*offset);
    EXPECT_TRUE(next == taken.end() || *offset + bytes <= next->first);
    EXPECT_TRUE(next == taken.begin() || std::prev(next)->first + std::prev(next)->second <= *offset);
    EXPECT_TRUE(taken.emplace(*offset, bytes).second);
  }
  for (const auto& [offset, bytes] : taken) arena.release(offset);
  EXPECT_TRUE(arena.is_unused());
  EXPECT_EQ(arena.take(arena.bytes()), 0u) << "free ranges were not merged";
}

TEST(Arena, takes_the_smallest_range_that_fits) {
  Arena arena(10 * 256);
  const auto a = arena.take(3 * 256), b = arena.take(256), c = arena.take(256), d = arena.take(256);
  ASSERT_TRUE(a && b && c && d);
  arena.release(*a);
  arena.release(*c);
  EXPECT_EQ(arena.take(200), c);
  EXPECT_EQ(arena.take(300), a);
  EXPECT_EQ(arena.take(5 * 256), std::nullopt);
}

TEST(Arena, the_same_calls_give_the_same_offsets) {
  const auto run = [] {
    Arena arena(1 << 14);
    std::vector<std::size_t> offsets;
    for (const std::size_t bytes : {100, 700, 300}) offsets.push_back(arena.take(bytes).value());
    arena.release(offsets[1]);
    offsets.push_back(arena.take(400).value());
    return offsets;
  };
  EXPECT_EQ(run(), run());
}

TEST(Arena, releasing_twice_is_told) {
  Arena arena(1024);
  const std::size_t offset = arena.take(10).value();
  arena.release(offset);
  EXPECT_TRUE(mentions(thrown_error([&] { arena.release(offset); }), "arena: offset 0 was not taken"));
}

}  // namespace
}  // namespace tern::test
