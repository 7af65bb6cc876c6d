// Packed batches and their capacity.
#include "training/device_batch.h"

#include <set>

#include <gtest/gtest.h>

#include "support/thrown_error.h"

namespace tern::test {
namespace {

TEST(Capacity, holds_the_tokens_and_wastes_little) {
  for (std::int64_t tokens = 0; tokens < 300'000; tokens += tokens < 5000 ? 1 : 37) {
    const std::int64_t capacity = token_capacity(tokens);
    ASSERT_GE(capacity, std::max<std::int64_t>(tokens, 1)) << tokens;
    ASSERT_LT(capacity - tokens, std::max<std::int64_t>(1025, tokens / 16 + 1)) << tokens;
    ASSERT_EQ(token_capacity(capacity), capacity) << "a full batch has no unused rows";
  }
}

TEST(Capacity, takes_few_values) {
  std::set<std::int64_t> seen;
  for (std::int64_t tokens = 65'537; tokens <= 131'072; ++tokens) seen.insert(token_capacity(tokens));
  EXPECT_EQ(seen.size(), 16u);
  EXPECT_EQ(token_capacity(1), 1024);
  EXPECT_EQ(token_capacity(1024), 1024);
  EXPECT_EQ(token_capacity(1025), 2048);
  EXPECT_EQ(token_capacity(32 * 2048), 32 * 2048);
}

data::Batch small_batch() {
  data::Batch batch;
  batch.tokens = {3, 4, 5, 6, 7};
  batch.position = {0, 2, 3, 1, 7};
  batch.offsets = {0, 3, 3, 5};
  batch.sample = {11, 12, 13};
  batch.labels = {1, 0, 2};
  batch.records = 3;
  batch.longest = 3;
  batch.padded_length = 8;
  return batch;
}

template <class T>
std::vector<T> first(const Tensor& x, std::int64_t count) {
  return x.narrowed(0, 0, count).to_vector<T>();
}

TEST(PackedBatch, holds_the_batch_and_unused_rows) {
  const data::Batch batch = small_batch();
  const BatchShape shape = shape_of(batch);
  EXPECT_EQ(shape.capacity, 1024);
  EXPECT_TRUE(shape.has_empty_sequence);
  const auto block = std::make_shared<Storage>(packed_bytes(shape), Device{});
  std::memset(block->address(), 0xEE, block->bytes());
  pack(batch, shape, block->address());
  const DeviceBatch packed = unpacked(shape, block), exact = host_batch(batch);
  EXPECT_EQ(first<std::int32_t>(packed.tokens, 5), exact.tokens.to_vector<std::int32_t>());
  EXPECT_EQ(first<std::int32_t>(packed.layout.position, 5), exact.layout.position.to_vector<std::int32_t>());
  EXPECT_EQ(first<std::int64_t>(packed.layout.token_sample, 5),
            exact.layout.token_sample.to_vector<std::int64_t>());
  EXPECT_EQ(packed.layout.offsets.to_vector<std::int32_t>(), batch.offsets);
  EXPECT_EQ(packed.layout.order.to_vector<std::int32_t>(), exact.layout.order.to_vector<std::int32_t>());
  EXPECT_EQ(packed.layout.sample.to_vector<std::int64_t>(), batch.sample);
  EXPECT_EQ(packed.labels.to_vector<std::int32_t>(), batch.labels);
  EXPECT_EQ(packed.layout.tokens(), 1024);
  const std::vector<std::int32_t> tokens = packed.tokens.to_vector<std::int32_t>();
  EXPECT_EQ(std::vector(tokens.begin() + 5, tokens.end()), std::vector<std::int32_t>(1019, 0));
  EXPECT_EQ(packed.layout.longest, 8) << "a bound for every batch of this shape";
  EXPECT_EQ(packed.layout.shortest, 0);
}

TEST(PackedBatch, refuses_a_batch_that_makes_no_sense) {
  data::Batch batch = small_batch();
  batch.position[4] = 8;  // no place of a sequence of 8
  const BatchShape shape = shape_of(batch);
  std::vector<std::byte> bytes(packed_bytes(shape));
  EXPECT_EQ(thrown_error([&] { pack(batch, shape, bytes.data()); }).code(), ExitCode::failed);
}

TEST(PackedBatch, shapes_differ_where_a_graph_would) {
  const BatchShape shape = shape_of(small_batch());
  data::Batch other = small_batch();
  other.sample.pop_back();
  other.offsets.pop_back();
  EXPECT_NE(shape_of(other), shape);
  other = small_batch();
  other.offsets = {0, 2, 3, 5};
  EXPECT_NE(shape_of(other), shape) << "no sequence is empty";
  other.offsets = {0, 1, 3, 5};
  data::Batch same = small_batch();
  same.offsets = {0, 2, 3, 5};
  EXPECT_EQ(shape_of(other), shape_of(same));
}

}  // namespace
}  // namespace tern::test
