// Block-sparse attention against softmax over the pairs of its definition.
#include <bit>
#include <set>

#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/sparse_by_definition.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 6, .max_length = 400};

TEST(BlockSparse, attends_to_the_blocks_that_are_named) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33, 200}, 400);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  for (const int block : {4, 64})
    for (const int local : {0, 2})
      for (const int global : {0, 1})
        for (const bool butterfly : {false, true}) {
          const auto is_visible = [=](int, int, const TokenPair& pair) {
            const int row = pair.query / block, column = pair.key / block;
            return std::abs(row - column) <= local || row < global || column < global ||
                   (butterfly && std::has_single_bit(static_cast<unsigned>(row ^ column)));
          };
          const Array expected = sparse_by_definition({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])},
                                                      layout, Visibility(is_visible), 1 / std::sqrt(6.0))[0];
          const Variant variant{"block_sparse",
                                {format_text("block={}", block), format_text("local_blocks={}", local),
                                 format_text("global_blocks={}", global), "random_blocks=0",
                                 format_text("butterfly={}", butterfly)}};
          EXPECT_EQ(
              difference(Mechanism(variant, shape)(rows, layout).to_vector<double>(), expected.values, 1e-13),
              "")
              << variant;
        }
}

/// The blocks that each block of a head sees, from rows whose keys are all alike and whose values name them.
std::vector<std::set<int>> seen_blocks(const Mechanism& mechanism, int head, int blocks, int block,
                                       bool training) {
  const SequenceLayout layout = layout_of({blocks * block}, 400);
  const Tensor zero = zeros({blocks * block, 2, 6}, DType::float64);
  std::vector<std::set<int>> out(static_cast<std::size_t>(blocks));
  for (int key = 0; key < blocks; ++key) {
    Array values(zero.shape());
    for (int i = key * block; i < (key + 1) * block; ++i) values[(i * 2 + head) * 6] = 1;
    const Array y =
        array_of(mechanism(std::vector{zero, zero, tensor_of(values, DType::float64)}, layout, training));
    for (int i = 0; i < blocks * block; ++i)
      if (y[(i * 2 + head) * 6] > 0) out[static_cast<std::size_t>(i / block)].insert(key);
  }
  return out;
}

TEST(BlockSparse, random_blocks_are_fixed_differ_by_head_and_are_seen_as_often_as_they_see) {
  constexpr int blocks = 40, drawn = 2;
  Mechanism mechanism({"block_sparse", {"block=3", "local_blocks=0", "global_blocks=0", "random_blocks=2"}},
                      shape);
  const auto first = seen_blocks(mechanism, 0, blocks, 3, true),
             second = seen_blocks(mechanism, 1, blocks, 3, true);
  mechanism.step = 2;
  EXPECT_EQ(seen_blocks(mechanism, 0, blocks, 3, true), first);
  EXPECT_EQ(seen_blocks(mechanism, 0, blocks, 3, false), first);
  EXPECT_NE(first, second);
  std::vector<int> seen(blocks);
  std::size_t total = 0;
  for (int row = 0; row < blocks; ++row) {
    const auto& columns = first[static_cast<std::size_t>(row)];
    EXPECT_TRUE(columns.contains(row));
    EXPECT_LE(columns.size(), 1 + drawn);
    total += columns.size();
    for (const int column : columns) ++seen[static_cast<std::size_t>(column)];
  }
  for (const int count : seen) EXPECT_LE(count, 1 + drawn);
  EXPECT_GE(total, blocks * (1 + drawn) * 9 / 10);  // few are drawn twice
}

TEST(BlockSparse, blocks_all_around_are_exact_attention) {
  const SequenceLayout layout = layout_of({7, 1, 150}, 400);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array expected = attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                                  softmax_weights(1 / std::sqrt(6.0)));
  for (const std::vector<std::string>& settings :
       {std::vector<std::string>{"block=16", "local_blocks=9", "global_blocks=0", "random_blocks=0"},
        {"block=150", "local_blocks=0", "global_blocks=0", "random_blocks=0"},
        {"block=64", "local_blocks=0", "global_blocks=3", "random_blocks=1"}})
    EXPECT_EQ(difference(Mechanism({"block_sparse", settings}, shape)(rows, layout).to_vector<double>(),
                         expected.values, 1e-13),
              "");
}

}  // namespace
}  // namespace tern::test
