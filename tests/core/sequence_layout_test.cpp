#include "tern/sequence_layout.h"

#include <gtest/gtest.h>

#include "support/thrown_error.h"

namespace tern::test {
namespace {

TEST(SequenceLayout, derives_lengths_and_coordinates) {
  const SequenceLayout layout =
      make_layout({0, 2, 2, 5}, {0, 4, 1, 2, 3}, {7, 8, 1 + (std::int64_t{1} << 33)}, 6);
  EXPECT_EQ(layout.sequences(), 3);
  EXPECT_EQ(layout.tokens(), 5);
  EXPECT_EQ(layout.longest, 3);
  EXPECT_EQ(layout.shortest, 0);
  EXPECT_EQ(make_layout({0, 2, 5}, {0, 1, 0, 1, 2}, {0, 1}, 6).shortest, 2);
  EXPECT_EQ(layout.padded_length, 6);
  const std::int64_t far = 1 + (std::int64_t{1} << 33);
  EXPECT_EQ(layout.token_sample.to_vector<std::int64_t>(), (std::vector<std::int64_t>{7, 7, far, far, far}));
  EXPECT_TRUE(layout.token_rows().position.shares_storage_with(layout.position));
}

TEST(SequenceLayout, may_be_empty) {
  const SequenceLayout none = make_layout({0}, {}, {}, 4);
  EXPECT_EQ(none.sequences(), 0);
  EXPECT_EQ(none.tokens(), 0);
  EXPECT_EQ(none.longest, 0);
}

TEST(SequenceLayout, mistakes_are_named) {
  const auto error = [](std::vector<std::int32_t> offsets, std::vector<std::int32_t> position) {
    return thrown_error([&] { make_layout(offsets, position, std::vector<std::int64_t>(2, 0), 4); });
  };
  EXPECT_TRUE(mentions(error({0, 2}, {0, 1}), "2 sequences need 3 offsets from 0 to 2, got 2 offsets"));
  EXPECT_TRUE(mentions(error({1, 2, 2}, {0, 1}), "sequence layout"));
  EXPECT_TRUE(mentions(error({0, 1, 1}, {0, 1}), "sequence layout"));
  EXPECT_TRUE(mentions(error({0, 3, 2}, {0, 1}), "offsets must not fall, got 3 before 2"));
  EXPECT_TRUE(mentions(error({0, 1, 2}, {0, 4}), "positions must lie in [0, 4), got 4"));
  EXPECT_TRUE(mentions(error({0, 1, 2}, {-1, 0}), "got -1"));
  EXPECT_TRUE(mentions(error({0, 2, 2}, {1, 0}), "positions must rise inside a sequence, got 1 before 0"));
  EXPECT_TRUE(mentions(error({0, 2, 2}, {1, 1}), "positions must rise"));
}

}  // namespace
}  // namespace tern::test
