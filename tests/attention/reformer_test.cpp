// Reformer against Hugging Face's module, and against softmax over the union of the sets that the paper's
// appendix A defines.
#include <set>

#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/golden.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 8, .max_length = 64};

/// The published form with given buckets (golden/reformer.safetensors).
TEST(Reformer, equals_the_module_of_hugging_face) {
  const Golden golden("reformer");
  const int length = golden.config()["length"].get<int>(), rounds = golden.config()["rounds"].get<int>();
  const SequenceLayout layout = layout_of({length, length}, length);
  SortedAttentionOptions options{.scale = 1, .excludes_self = true};
  options.blocks = {golden.config()["block"].get<int>(), 0, BlockReach::previous};
  const Tensor q = leaf(golden.tensor("q")), v = leaf(golden.tensor("v"));
  ASSERT_EQ(golden.tensor("buckets").shape(), (Shape{2, rounds, 2 * length}));
  const SortedTokens tokens = sort_tokens(golden.tensor("buckets"), 3, layout, options.blocks);
  const Tensor y = sorted_attention(q, unit_rows(q), v, layout, tokens, tokens, options),
               dy = golden.tensor("dy");
  backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(difference(y.to_vector<double>(), golden.values("y"), 1e-6), "");
  EXPECT_EQ(difference(gradient_of(q).to_vector<double>(), golden.values("dq"), 1e-6), "");
  EXPECT_EQ(difference(gradient_of(v).to_vector<double>(), golden.values("dv"), 1e-6), "");
}

/// For each token of a sequence: its bucket and its block in one round.
struct Round {
  std::vector<int> bucket, block;
};

/// The rounds of the mechanism that support/attention_contract.h builds, for one sequence.
std::vector<Round> rounds_of(const Tensor& q, const SequenceLayout& layout, std::int64_t head, int rounds,
                             int block) {
  static constexpr std::uint32_t step = 1;
  const Tensor codes =
      rotation_codes(q, layout, {rounds, block, 0}, {stream_key(17, "attention.rotations"), &step});
  const auto values = codes.to_vector<std::int32_t>();
  const std::int64_t tokens = layout.tokens();
  std::vector<Round> out(static_cast<std::size_t>(rounds));
  for (std::size_t r = 0; r < out.size(); ++r) {
    const auto begin = values.begin() + (head * rounds + static_cast<std::int64_t>(r)) * tokens;
    out[r].bucket.assign(begin, begin + tokens);
    for (std::int64_t i = 0; i < tokens; ++i) {
      int place = 0;  // tokens before i in the order of (bucket, position)
      for (std::int64_t j = 0; j < tokens; ++j) {
        const int mine = begin[i], other = begin[j];
        place += other < mine || (other == mine && j < i) ? 1 : 0;
      }
      out[r].block.push_back(place / block);
    }
  }
  return out;
}

/// Softmax over the union of what the rounds show, by the weights of exact attention.
TEST(Reformer, is_softmax_over_the_union_of_its_rounds) {
  const SequenceLayout layout = layout_of({61}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array q = array_of(rows[0]), k = unit_array(q), v = array_of(rows[2]);
  for (const int rounds : {1, 4}) {
    const Mechanism mechanism({"reformer", {"block=8", format_text("rounds={}", rounds)}}, shape);
    Array expected({61, 2, 8});
    for (std::int64_t head = 0; head < 2; ++head) {
      const auto all = rounds_of(rows[0], layout, head, rounds, 8);
      std::size_t query = 0;
      const Weights weights = [&](const std::vector<double>& products) {
        const std::size_t i = query++ / 2;
        std::vector<double> out(products.size());
        double total = 0;
        for (std::size_t j = 0; j < out.size(); ++j) {
          bool is_seen = false;
          for (const Round& round : all)
            is_seen |= round.bucket[i] == round.bucket[j] &&
                       (round.block[i] == round.block[j] || round.block[i] == round.block[j] + 1);
          if (is_seen) total += out[j] = std::exp(products[j] / std::sqrt(8.0) - (i == j ? 700 : 0));
        }
        for (double& weight : out) weight /= total;
        return out;
      };
      const Array y = attended({q, k, v}, layout, weights);
      for (std::int64_t i = 0; i < 61; ++i)
        for (std::int64_t c = 0; c < 8; ++c) expected[(i * 2 + head) * 8 + c] = y[(i * 2 + head) * 8 + c];
    }
    EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), expected.values, 1e-12), "") << rounds;
  }
}

/// The limit: one block holds the sequence, so that there is one bucket.
TEST(Reformer, in_one_block_is_exact_attention_to_other_tokens) {
  const SequenceLayout layout = layout_of({40, 1, 0, 63}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array q = array_of(rows[0]);
  for (const bool published : {false, true}) {
    const double scale = published ? 1 : 1 / std::sqrt(8.0);
    std::size_t query = 0;
    const Weights weights = [&](std::vector<double> products) {
      // attended() goes through sequences, queries and heads; a sequence of one token sees itself
      const std::size_t count = products.size(), first = count == 40 ? 0 : count == 1 ? 80 : 82;
      if (count > 1) products[(query - first) / 2] = -1e5;
      ++query;
      return softmax_weights(scale)(products);
    };
    const Array expected = attended({q, unit_array(q), array_of(rows[2])}, layout, weights);
    const Mechanism mechanism({"reformer", {published ? "published=true" : "rounds=3"}}, shape);
    EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), expected.values, 1e-12), "");
  }
}

/// Keys are the queries' directions: the layer's own keys do not matter.
TEST(Reformer, does_not_look_at_keys) {
  const SequenceLayout layout = layout_of({50}, 64);
  std::vector<Tensor> rows = random_rows(layout, shape);
  const Mechanism mechanism({"reformer", {"block=8"}}, shape);
  const std::vector<double> first = mechanism(rows, layout).to_vector<double>();
  rows[1] = affine(rows[1], 2, 1);
  EXPECT_EQ(mechanism(rows, layout).to_vector<double>(), first);
}

/// Rows in few directions: with more rounds fewer of a token's neighbours are missed.
TEST(Reformer, more_rounds_come_closer_to_exact_attention) {
  const SequenceLayout layout = layout_of({400}, 400);
  std::vector<Tensor> rows = random_rows(layout, shape);
  rows[0] = affine(rows[0], 4);
  const std::vector<double> exact =
      Mechanism({"reformer", {"block=400"}}, shape)(rows, layout).to_vector<double>();
  const auto error = [&](const char* rounds) {
    const auto y = Mechanism({"reformer", {"block=32", rounds}}, shape)(rows, layout).to_vector<double>();
    double square = 0;
    for (std::size_t i = 0; i < y.size(); ++i) square += (y[i] - exact[i]) * (y[i] - exact[i]);
    return square;
  };
  const double one = error("rounds=1"), four = error("rounds=4"), sixteen = error("rounds=16");
  EXPECT_LT(four, 0.8 * one);
  EXPECT_LT(sixteen, 0.6 * four);
}

TEST(Reformer, an_odd_number_of_buckets_is_refused) {
  EXPECT_EQ(thrown_error([] { Mechanism({"reformer", {"buckets=3"}}, shape); }).code(), ExitCode::bad_config);
}

}  // namespace
}  // namespace tern::test
