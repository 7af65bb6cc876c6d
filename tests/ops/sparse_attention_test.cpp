#include <set>

#include "support/attention_by_definition.h"
#include "support/devices.h"
#include "support/op_case.h"
#include "support/sparse_by_definition.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr PhiloxKey key{11, 12};

AttentionPattern local(int block, int from, int to) { return {.block = block, .from = from, .to = to}; }
AttentionPattern window(int width, int global) { return {.window = width, .global = global}; }

struct NamedPattern {
  std::string name;
  AttentionPattern pattern;
};

/// Each part alone, at sizes below, at and above the tiles' 64 tokens, and unions. Every row sees a key.
std::vector<NamedPattern> patterns() {
  AttentionPattern mixed = local(16, -1, 1), everything = local(100, 0, 0);
  mixed.global = 5;
  mixed.random_blocks = 2;
  mixed.random_key = key;
  everything.butterfly = true;
  everything.random_blocks = 1;
  everything.random_key = key;
  everything.window = 9;
  everything.global = 70;
  return {{"own block", local(7, 0, 0)},
          {"block before", local(8, -1, 0)},
          {"blocks of one token", local(1, 0, 2)},
          {"blocks around", local(64, -1, 1)},
          {"large blocks", local(100, 0, 1)},
          {"window", window(5, 0)},
          {"itself", window(0, 0)},
          {"window and global tokens", window(20, 3)},
          {"global tiles", {.window = 0, .global = 65}},
          {"butterfly", {.block = 9, .butterfly = true}},
          {"butterfly of tiles", {.block = 64, .butterfly = true}},
          {"random", {.block = 6, .random_blocks = 3, .random_key = key}},
          {"mixed", mixed},
          {"everything", everything}};
}

OpCase case_of(const NamedPattern& named, const SequenceLayout& layout, std::int64_t width,
               std::int64_t longest) {
  const Shape shape{layout.tokens(), 2, width};
  return {.name = format_text("sparse_attention, {}, of {} tokens, width {}", named.name, longest, width),
          .inputs = {normal_array(shape, 150), normal_array(shape, 151), normal_array(shape, 152)},
          .function =
              [=](std::span<const Tensor> x) {
                const SparseAttention out =
                    sparse_attention(x[0], x[1], x[2], on(x[0], layout), named.pattern, 0.4);
                return std::vector{out.y, out.log_sums};
              },
          .reference = [=](const Arrays& x) { return sparse_by_definition(x, layout, named.pattern, 0.4); },
          .reduction_length = longest + width};
}

TEST(SparseAttention, every_pattern_on_ragged_batches) {
  std::vector<OpCase> cases;
  for (const NamedPattern& named : patterns()) {
    cases.push_back(case_of(named, layout_of({7, 0, 1, 17}, 200), 5, 17));
    cases.push_back(case_of(named, layout_of({150, 64}, 200), 8, 150));
  }
  check(cases);
}

/// Each has kernels of its own on a GPU.
TEST(SparseAttention, heads_of_every_width) {
  std::vector<OpCase> cases;
  for (const std::int64_t width : {1, 32, 40, 72, 200}) {
    cases.push_back(case_of({"window and global tokens", window(20, 3)}, layout_of({90, 1}, 100), width, 90));
    cases.push_back(case_of({"random", {.block = 24, .random_blocks = 2, .random_key = key}},
                            layout_of({90, 1}, 100), width, 90));
  }
  check(cases);
}

TEST(SparseAttention, chunks_of_tiles_meet) {
  std::vector<OpCase> cases;
  for (const NamedPattern& named : {NamedPattern{"window and global tokens", window(70, 3)},
                                    NamedPattern{"block before", local(64, -1, 0)}})
    cases.push_back(case_of(named, layout_of({560}, 560), 3, 560));
  check(cases);
}

/// Window distances are those of the original sequence.
TEST(SparseAttention, absent_tokens_keep_their_distance) {
  const SequenceLayout gaps =
      make_layout({0, 6, 9}, {0, 1, 5, 6, 7, 19, 2, 3, 11}, std::vector<std::int64_t>{40, 41}, 20);
  check({case_of({"window over gaps", window(4, 0)}, gaps, 5, 6),
         case_of({"window over gaps, with a global token", window(2, 1)}, gaps, 5, 6),
         case_of({"window over wide gaps", window(30, 0)}, layout_of({140}, 2000, 13), 5, 140)});
}

TEST(SparseAttention, a_row_that_sees_nothing_is_zero_and_passes_nothing) {
  const SequenceLayout layout = layout_of({150}, 200);
  const AttentionPattern next{.block = 70, .from = 1, .to = 1};  // the last block sees none
  for (const Device device : test_devices()) {
    std::vector<Tensor> x;
    for (std::uint64_t part = 0; part < 3; ++part)
      x.push_back(leaf(tensor_of(normal_array({150, 2, 5}, 160 + part), DType::float64, device)));
    const SparseAttention out = sparse_attention(x[0], x[1], x[2], on(x[0], layout), next, 0.4);
    const auto y = out.y.to_vector<double>(), log_sums = out.log_sums.to_vector<double>();
    backward(out.y);
    const auto dq = gradient_of(x[0]).to_vector<double>();
    for (std::size_t i = 0; i < 1500; ++i) {
      EXPECT_EQ(y[i] == 0, i >= 1400) << i;
      EXPECT_TRUE(std::isfinite(dq[i])) << i;
      EXPECT_EQ(dq[i] == 0, i >= 1400) << i;
    }
    for (std::size_t i = 0; i < 300; ++i)
      EXPECT_EQ(log_sums[i] == -std::numeric_limits<double>::infinity(), i >= 280) << i;
    for (const Tensor& leaf : x)
      for (const double value : gradient_of(leaf).to_vector<double>()) EXPECT_TRUE(std::isfinite(value));
  }
}

/// A softmax over two disjoint sets of keys is the mean of both parts, weighted by their sums: values and,
/// through the log sums, gradients.
TEST(SparseAttention, parts_of_one_softmax_add_up) {
  const SequenceLayout layout = layout_of({128, 100}, 128);
  const Shape shape{228, 2, 6};
  const auto joined = [&](std::span<const Tensor> x) {
    const auto part = [&](int from, int to) {
      return sparse_attention(x[0], x[1], x[2], on(x[0], layout), {.block = 64, .from = from, .to = to}, 0.4);
    };
    const SparseAttention own = part(0, 0), other = part(1, 1), before = part(-1, -1);
    Tensor total, sum;
    for (const SparseAttention& a : {own, other, before}) {
      const Tensor weight = exp(a.log_sums);
      const Tensor rows = permute(expand(weight, {6, 228, 2}), {1, 2, 0});
      const Tensor share = multiply(a.y, contiguous(rows));
      sum = sum.defined() ? add(sum, share) : share;
      total = total.defined() ? add(total, weight) : weight;
    }
    return divide(sum, contiguous(permute(expand(total, {6, 228, 2}), {1, 2, 0})));
  };
  check({{.name = "parts of one softmax",
          .inputs = {normal_array(shape, 170), normal_array(shape, 171), normal_array(shape, 172)},
          .function = one_result(joined),
          .reference = one_array([=](const Arrays& x) { return attended(x, layout, softmax_weights(0.4)); }),
          .has_bfloat16 = false,
          .reduction_length = 400}});
}

/// Scores of 1e4 and more: no row's sum overflows, and tiles seen later may raise it.
TEST(SparseAttention, large_scores_stay_exact) {
  const SequenceLayout layout = layout_of({200}, 200);
  const Shape shape{200, 1, 4};
  Arrays inputs{normal_array(shape, 173), normal_array(shape, 174), normal_array(shape, 175)};
  for (double& value : inputs[0].values) value = 100 * static_cast<double>(std::lround(value));
  for (double& value : inputs[1].values) value = 100 * static_cast<double>(std::lround(value));
  const AttentionPattern pattern = window(70, 1);
  const SparseAttention out =
      sparse_attention(tensor_of(inputs[0], DType::float32), tensor_of(inputs[1], DType::float32),
                       tensor_of(inputs[2], DType::float32), layout, pattern, 1);
  const auto expected = sparse_by_definition(inputs, layout, pattern, 1);
  EXPECT_EQ(difference(out.y.to_vector<double>(), expected[0].values, 1e-2), "");
  EXPECT_EQ(difference(out.log_sums.to_vector<double>(), expected[1].values, 1e-6), "");
}

TEST(SparseAttention, random_blocks_are_permutations) {
  for (const int count : {1, 2, 3, 5, 16, 17, 64, 1000, 4097}) {
    std::set<int> images;
    const kernels::RandomPermutation permutation(key, 1, 2, count);
    for (int x = 0; x < count; ++x) {
      const int y = permutation.image(x);
      EXPECT_EQ(permutation.origin(y), x);
      images.insert(y);
    }
    EXPECT_EQ(std::ssize(images), count);
    EXPECT_TRUE(*images.begin() == 0 && *images.rbegin() == count - 1);
  }
  // their numbers and heads tell them apart, and they move far
  const kernels::RandomPermutation a(key, 0, 0, 1024), b(key, 1, 0, 1024), c(key, 0, 1, 1024);
  int equal = 0;
  double distance = 0;
  for (int x = 0; x < 1024; ++x) {
    equal += (a.image(x) == b.image(x)) + (a.image(x) == c.image(x)) + (a.image(x) == x);
    distance += std::abs(a.image(x) - x) / 1024.0 / 1024.0;
  }
  EXPECT_LT(equal, 20);
  EXPECT_NEAR(distance, 1.0 / 3, 0.04);
}

TEST(SparseAttention, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32), y = zeros({3, 3, 4}, DType::float32);
  const auto message = [&](const Tensor& rows, const AttentionPattern& pattern) {
    return thrown_error([&] { sparse_attention(rows, rows, rows, layout, pattern, 1); });
  };
  EXPECT_TRUE(mentions(message(y, window(1, 0)), "sparse_attention: q, k and v must be [2, heads, width]"));
  EXPECT_TRUE(mentions(message(x, local(0, 0, 0)), "blocks must have at least one token, got 0"));
  EXPECT_TRUE(mentions(message(x, window(1, -1)), "must not be negative, got -1 and 0"));
}

}  // namespace
}  // namespace tern::test
