// Batches in the order of their source, and from another one.
#include "training/batch_feed.h"

#include <set>

#include <gtest/gtest.h>

#include "support/devices.h"

namespace tern::test {
namespace {

constexpr std::int32_t tokens_of_batch = 900;

/// One sequence, of which every token is `number`.
data::Batch batch_of(std::int32_t number) {
  data::Batch batch;
  batch.tokens.assign(tokens_of_batch, number);
  for (std::int32_t i = 0; i < tokens_of_batch; ++i) batch.position.push_back(i);
  batch.offsets = {0, tokens_of_batch};
  batch.sample = {number};
  batch.labels = {number};
  batch.records = 1;
  batch.longest = batch.padded_length = tokens_of_batch;
  return batch;
}

/// Batches `first` and on, `count` of them.
BatchSource numbered(std::int32_t first, std::int32_t count) {
  return [next = first, end = first + count]() mutable -> std::optional<data::Batch> {
    if (next == end) return {};
    return batch_of(next++);
  };
}

std::int32_t number_of(const FedBatch& batch) {
  const auto tokens = batch.tensors.tokens.narrowed(0, 0, tokens_of_batch).to_vector<std::int32_t>();
  EXPECT_EQ(tokens, std::vector<std::int32_t>(tokens_of_batch, tokens[0]));
  return tokens[0];
}

TEST(BatchFeed, goes_on_with_another_source) {
  for (const Device device : test_devices()) {
    BatchFeed feed(device, numbered(1, 3), packed_bytes(shape_of(batch_of(1))));
    std::set<const std::byte*> places;
    // Each time it leaves off somewhere in the five of a source; on a GPU the next one is under way then.
    for (std::int32_t round = 0; round < 40; ++round) {
      feed.restart(numbered(100 * round, 5));
      for (std::int32_t i = 0; i < std::min(round % 7, 5); ++i) {
        const FedBatch batch = feed.next().value();
        ASSERT_EQ(number_of(batch), 100 * round + i) << device;
        places.insert(batch.tensors.tokens.address());
        feed.prefetch();
      }
      ASSERT_EQ(feed.next().has_value(), round % 7 < 5) << device;
    }
    EXPECT_TRUE(device.type == DeviceType::cpu || places.size() == 1) << "graphs have the place baked in";
  }
}

TEST(BatchFeed, a_failed_source_is_forgotten) {
  for (const Device device : test_devices()) {
    BatchFeed feed(device, numbered(1, 1), packed_bytes(shape_of(batch_of(1))));
    feed.restart([]() -> std::optional<data::Batch> { throw_error(ExitCode::bad_data, "damaged"); });
    feed.prefetch();
    EXPECT_THROW(feed.next(), Error);
    feed.prefetch();
    feed.restart(numbered(7, 1));
    EXPECT_EQ(number_of(feed.next().value()), 7);
  }
}

}  // namespace
}  // namespace tern::test
