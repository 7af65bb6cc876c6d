// Longformer against band softmax by its definition (Beltagy et al. 2020, arXiv 2004.05150, section 3.1) and
// against Hugging Face's module.
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/golden.h"
#include "support/sparse_by_definition.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 6, .max_length = 400};

TEST(Longformer, attends_to_half_the_window_on_each_side_and_to_global_tokens) {
  const SequenceLayout gaps = make_layout({0, 6, 9}, {0, 1, 5, 6, 7, 19, 2, 3, 11}, {40, 41}, 400);
  for (const SequenceLayout& layout : {layout_of({9, 1, 0, 33}, 400), layout_of({150}, 400), gaps})
    for (const int window : {0, 4, 100})
      for (const int global : {0, 1, 3}) {
        const std::vector<Tensor> rows = random_rows(layout, shape);
        const auto is_visible = [=](int, int, const TokenPair& pair) {
          return 2 * std::abs(pair.query_position - pair.key_position) <= window || pair.query < global ||
                 pair.key < global;
        };
        const Array expected = sparse_by_definition({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])},
                                                    layout, Visibility(is_visible), 1 / std::sqrt(6.0))[0];
        const Mechanism mechanism(
            {"longformer", {format_text("window={}", window), format_text("global_tokens={}", global)}}, shape);
        EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), expected.values, 1e-13), "")
            << window << " " << global;
      }
}

/// The rows of [sequences, length, width] whose kind is not 0, as heads.
Tensor packed(const Tensor& rows, const std::vector<std::int32_t>& kind) {
  const auto values = rows.to_vector<double>();
  const std::size_t width = values.size() / kind.size();
  std::vector<double> out;
  for (std::size_t i = 0; i < kind.size(); ++i)
    if (kind[i] != 0)
      out.insert(out.end(), values.begin() + static_cast<std::ptrdiff_t>(i * width),
                 values.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return from_vector(out, {static_cast<std::int64_t>(out.size()) / 12, 2, 6});
}

/// Padded tokens, also inside of a sequence, keep their place; its softmax is computed in float32.
TEST(Longformer, matches_hugging_face) {
  const Golden golden("longformer");
  for (const int global : {0, 2}) {
    const std::string prefix = format_text("global_{}.", global);
    const auto kind = golden.integers(prefix + "kind");
    std::vector<std::int32_t> offsets{0}, position;
    for (std::size_t i = 0; i < kind.size(); ++i) {
      if (kind[i] != 0) position.push_back(static_cast<std::int32_t>(i % 32));
      if (i % 32 == 31) offsets.push_back(static_cast<std::int32_t>(position.size()));
    }
    const SequenceLayout layout = make_layout(offsets, position, {40, 41, 42}, 32);
    std::vector<Tensor> in;
    for (const char* name : {"q", "k", "v"}) in.push_back(leaf(packed(golden.tensor(name), kind)));
    const Mechanism mechanism({"longformer", {"window=8", format_text("global_tokens={}", global)}}, shape);
    const Tensor y = mechanism(in, layout), dy = packed(golden.tensor("dy"), kind);
    backward(std::span(&y, 1), std::span(&dy, 1));
    const auto expected = [&](const std::string& name) {
      return packed(golden.tensor(prefix + name), kind).to_vector<double>();
    };
    EXPECT_EQ(difference(y.to_vector<double>(), expected("y"), 1e-6), "");
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string name = std::array{"dq", "dk", "dv"}[i];
      EXPECT_EQ(difference(gradient_of(in[i]).to_vector<double>(), expected(name), 1e-6), "") << name;
    }
  }
}

TEST(Longformer, a_window_over_the_whole_sequence_is_exact_attention) {
  const SequenceLayout layout = layout_of({7, 1, 150}, 400);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array expected = attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                                  softmax_weights(1 / std::sqrt(6.0)));
  const Mechanism wide({"longformer", {"window=298", "global_tokens=0"}}, shape),
      all_global({"longformer", {"window=0", "global_tokens=150"}}, shape);
  EXPECT_EQ(difference(wide(rows, layout).to_vector<double>(), expected.values, 1e-13), "");
  EXPECT_EQ(difference(all_global(rows, layout).to_vector<double>(), expected.values, 1e-13), "");
}

TEST(Longformer, an_odd_window_is_refused) {
  const Error error = thrown_error([] { Mechanism({"longformer", {"window=7"}}, shape); });
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "must be even: half of it lies on each side, got 7")) << error.what();
}

}  // namespace
}  // namespace tern::test
