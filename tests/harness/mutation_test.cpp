// Readers with planted faults: feed() must report each.
#include "support/mutation.h"

#include <ctime>
#include <set>

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

namespace tern::test {
namespace {

const std::string sound = R"({"a": [1, 2, {"b": "text"}], "c": 3.5})";

/// Fed one variant whose reader does what it must not.
void feed_one(const std::function<void()>& misdeed) {
  feed(sound, Variation::json, 1, {ExitCode::bad_data}, [&](const std::string&) { misdeed(); });
}

void throw_other_exception() { throw std::runtime_error("planted"); }
void throw_other_code() { throw Error(ExitCode::internal, "planted"); }
void take_much_memory() { std::vector<char>(std::size_t{1} << 30, 'x').front() = 'y'; }
void take_much_time() {
  const std::clock_t end = std::clock() + CLOCKS_PER_SEC * 11 / 10;
  while (std::clock() < end) continue;
}

TEST(Mutation, every_misdeed_of_a_reader_is_reported) {
  EXPECT_NONFATAL_FAILURE(feed_one(throw_other_exception), "must be a tern::Error, got: planted");
  EXPECT_NONFATAL_FAILURE(feed_one(throw_other_code), "exit code 70: planted");
}

TEST(Mutation, excess_of_a_reader_is_reported) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory and time lie above the limits";
#endif
  EXPECT_NONFATAL_FAILURE(feed_one(take_much_memory), "bad_alloc");
  EXPECT_NONFATAL_FAILURE(feed_one(take_much_time), "processor_seconds");
}

TEST(Mutation, variants_differ_and_come_again) {
  std::set<std::string> variants;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    const std::string damaged = Mutator(seed).damaged(sound), changed = Mutator(seed).changed_json(sound);
    EXPECT_EQ(Mutator(seed).damaged(sound), damaged);
    EXPECT_EQ(Mutator(seed).changed_json(sound), changed);
    variants.insert(damaged);
  }
  EXPECT_GT(variants.size(), 180u);
}

}  // namespace
}  // namespace tern::test
