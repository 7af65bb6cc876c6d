// What the layer around a mechanism relies on, for every registered kind.
#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/memory.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 12, .max_length = 1024};

/// Every kind with its defaults, and further settings of those that have some.
std::vector<Variant> variants() {
  const std::map<std::string, std::vector<std::vector<std::string>>> further{
      {"softmax", {{"dropout=0"}}},
      {"linear", {{"published=true"}}},
      {"taylor", {{"feature_width=3"}}},
      {"nystrom",
       {{"landmarks=4", "conv_window=0"}, {"landmarks=4", "conv_window=3"}, {"landmarks=4", "published=true"}}},
      {"linformer", {{"projected_length=5"}, {"projected_length=5", "shared_key_value=true"}}},
      {"lightning", {{"published=true"}}},
      {"longformer", {{"window=6", "global_tokens=2"}, {"window=2", "global_tokens=0"}}},
      {"block_sparse", {{"block=4", "random_blocks=2", "butterfly=true"}}},
      {"performer", {{"features=24"}, {"kernel=relu"}, {"published=true"}}},
      {"reformer",
       {{"block=4"}, {"block=5", "rounds=3", "buckets=4"}, {"block=4", "rounds=3", "published=true"}}},
      {"hyper", {{"block=4", "samples=5"}, {"block=7", "samples=0"}}},
      {"routing",
       {{"clusters=3"}, {"clusters=5", "window=6", "routed_heads=2"}, {"clusters=3", "published=true"}}},
      {"sea", {{"segments=4", "keys=3"}, {"segments=40", "keys=2", "channels=1", "features=5"}}},
      {"yoso",
       {{"bits=4", "hashes=6"},
        {"bits=4", "hashes=6", "gradient=exact", "conv_window=3"},
        {"bits=4", "hashes=6", "hash=interleaved"},
        {"bits=4", "hashes=6", "hash=hadamard"},
        {"bits=18", "hashes=3"},
        {"bits=6", "form=expectation"},
        {"bits=6", "form=expectation", "gradient=exact", "conv_window=5"}}}};
  std::vector<Variant> out;
  for (const AttentionKind& kind : attention_kinds()) {
    out.push_back({std::string(kind.name), {}});
    if (const auto found = further.find(out.back().kind); found != further.end())
      for (const auto& settings : found->second) out.push_back({found->first, settings});
  }
  return out;
}

class Contract : public testing::TestWithParam<Variant> {
 protected:
  void expect_equal(const std::vector<Array>& actual, const std::vector<Array>& expected, double relative) {
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      EXPECT_EQ(actual[i].shape, expected[i].shape);
      EXPECT_EQ(difference(actual[i].values, expected[i].values, relative), "") << "array " << i;
    }
  }
  Mechanism mechanism_{GetParam(), shape};
};

TEST_P(Contract, shape_and_type_are_kept) {
  const SequenceLayout layout = layout_of({7, 0, 33}, 64);
  for (const DType dtype : {DType::float32, DType::float64})
    for (const bool training : {false, true}) {
      const Mechanism mechanism(GetParam(), shape, dtype);
      const Tensor y = mechanism(random_rows(layout, shape, dtype), layout, training);
      EXPECT_EQ(y.shape(), (Shape{40, 2, 12}));
      EXPECT_EQ(y.dtype(), dtype);
      EXPECT_TRUE(y.is_contiguous());
    }
}

TEST_P(Contract, sequences_may_be_reordered) {
  const SequenceLayout layout = make_layout({0, 2, 5}, {0, 1, 0, 1, 2}, {7, 9}, 64),
                       turned = make_layout({0, 3, 5}, {0, 1, 2, 0, 1}, {9, 7}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto swap = [](const Tensor& x, std::int64_t first) {
    return concatenate({slice(x, 0, first, 5 - first), slice(x, 0, 0, first)}, 0);
  };
  std::vector<Tensor> moved;
  for (const Tensor& x : rows) moved.push_back(swap(x, 2));
  const Array plain = array_of(mechanism_(rows, layout)), back = array_of(swap(mechanism_(moved, turned), 3));
  EXPECT_EQ(difference(back.values, plain.values, 1e-13), "");
}

TEST_P(Contract, padding_does_not_matter_where_declared) {
  if (!mechanism_.traits().padding_free) return;
  Variant variant = GetParam();
  // the published form divides by the root of the padded length
  if (variant.kind == "linear" && !variant.settings.empty()) return;
  // yoso's bits follow the padded length unless they are set
  if (variant.kind == "yoso" && variant.settings.empty()) variant.settings = {"bits=6"};
  const std::vector<int> lengths{5, 17};
  const std::vector<Tensor> rows = random_rows(layout_of(lengths, 64), shape);
  const Mechanism exact(variant, shape), padded(variant, {shape.heads, shape.head_width, 5000});
  expect_equal(values_and_gradients(padded, rows, layout_of(lengths, 5000)),
               values_and_gradients(exact, rows, layout_of(lengths, 17)), 0);
}

TEST_P(Contract, a_sequence_does_not_see_its_batch_where_declared) {
  if (!mechanism_.traits().batch_independent) return;
  // the published form scales by a maximum over the batch
  const std::vector<std::string>& settings = GetParam().settings;
  if (GetParam().kind == "nystrom" && std::count(settings.begin(), settings.end(), "published=true") > 0)
    return;
  const SequenceLayout layout = make_layout({0, 9, 14}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4}, {7, 9}, 64),
                       alone = make_layout({0, 5}, {0, 1, 2, 3, 4}, {9}, 64);
  std::vector<Tensor> rows = random_rows(layout, shape), second;
  for (Tensor& x : rows) {
    second.push_back(slice(x, 0, 9, 5));
    x = concatenate({affine(slice(x, 0, 0, 9), 100), second.back()}, 0);
  }
  const Array together = array_of(slice(mechanism_(rows, layout), 0, 9, 5)),
              apart = array_of(mechanism_(second, alone));
  EXPECT_EQ(difference(together.values, apart.values, 1e-13), "");
}

TEST_P(Contract, degenerate_input_gives_finite_results) {
  const SequenceLayout layout = layout_of({1, 0, 20, 1}, 64);
  const std::vector<Tensor> random = random_rows(layout, shape);
  const auto filled = [&](double value) { return full(random[0].shape(), value, DType::float64); };
  const Tensor opposite = affine(random[0], -1);
  for (const std::vector<Tensor>& rows :
       std::vector<std::vector<Tensor>>{random,
                                        {filled(0), filled(0), filled(0)},
                                        {filled(0), random[1], random[2]},
                                        {filled(0.5), filled(0.5), filled(0.5)},
                                        {random[0], random[0], random[2]},
                                        {random[0], opposite, random[2]},
                                        {affine(random[0], 1e3), affine(random[1], 1e3), random[2]},
                                        {affine(random[0], 1e-15), affine(random[1], 1e-15), random[2]}})
    for (const Array& values : values_and_gradients(mechanism_, rows, layout))
      for (const double value : values.values) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(Contract, a_batch_may_be_empty) {
  for (const std::vector<int>& lengths : {std::vector<int>{}, std::vector<int>{0, 0}}) {
    const SequenceLayout layout = layout_of(lengths, 64);
    EXPECT_EQ(mechanism_(random_rows(layout, shape), layout).shape(), (Shape{0, 2, 12}));
  }
}

TEST_P(Contract, same_stream_same_bits) {
  const SequenceLayout layout = layout_of({130, 1, 40}, 200);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto first = values_and_gradients(mechanism_, rows, layout);
  const int before = threads();
  for (const int count : {1, 2, 3}) {
    set_threads(count);
    expect_equal(values_and_gradients(mechanism_, rows, layout), first, 0);
  }
  set_threads(before);
}

TEST_P(Contract, views_of_one_product_are_as_good_as_copies) {
  const SequenceLayout layout = layout_of({5, 30}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Tensor product = empty({35, 3, 2, 12}, DType::float64);
  const std::vector<Tensor> parts = unstack(product, 1);
  for (std::size_t i = 0; i < 3; ++i) copy(rows[i], parts[i]);
  expect_equal(values_and_gradients(mechanism_, parts, layout), values_and_gradients(mechanism_, rows, layout),
               1e-13);
}

TEST_P(Contract, float32_follows_float64) {
  // keys are chosen by weights that rounding can bring to another order
  if (GetParam().kind == "sea" && !GetParam().settings.empty()) return;
  const SequenceLayout layout = layout_of({30, 3}, 64);
  const std::vector<Tensor> small = random_rows(layout, shape, DType::float32);
  std::vector<Tensor> large;
  for (const Tensor& x : small) large.push_back(cast(x, DType::float64));
  const Mechanism mechanism(GetParam(), shape, DType::float32);
  expect_equal(values_and_gradients(mechanism, small, layout), values_and_gradients(mechanism_, large, layout),
               20 * tolerance(DType::float32, 30));
}

/// Four times the length: at most four times the memory, and a little for the rounding of blocks.
TEST_P(Contract, memory_grows_in_proportion_to_the_length) {
  const Mechanism mechanism(GetParam(), shape, DType::float32);
  const auto peak = [&](int length) {
    const SequenceLayout layout = layout_of({length}, length);
    const std::vector<Tensor> rows = random_rows(layout, shape, DType::float32);
    const std::vector<Tensor> leaves{leaf(rows[0]), leaf(rows[1]), leaf(rows[2])};
    reset_peak_memory();
    const std::int64_t start = memory_statistics().live_bytes;
    backward(mechanism.function(layout)(leaves)[0]);
    return static_cast<double>(memory_statistics().peak_bytes - start);
  };
  const double base = peak(256);
  EXPECT_GT(base, 0);
  EXPECT_LT(peak(1024), 4.5 * base);
}

TEST_P(Contract, exact_kinds_equal_softmax) {
  if (!mechanism_.traits().exact) return;
  const SequenceLayout layout = layout_of({7, 1, 33}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array expected = attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                                  softmax_weights(1 / std::sqrt(12.0)));
  EXPECT_EQ(difference(mechanism_(rows, layout, false).to_vector<double>(), expected.values, 1e-13), "");
}

TEST_P(Contract, the_gradient_is_the_derivative_where_declared) {
  Variant variant = GetParam();
  if (variant.kind == "yoso")
    variant.settings = {"bits=6", "form=expectation", "gradient=exact", "conv_window=3"};
  const Mechanism mechanism(variant, shape);
  if (!mechanism.traits().is_gradient_exact && variant.kind != "yoso") return;
  const SequenceLayout layout = layout_of({9, 1, 4}, 64);
  for (const std::string& line : gradient_failures(mechanism.function(layout), random_rows(layout, shape)))
    ADD_FAILURE() << line;
}

TEST_P(Contract, stochastic_kinds_draw_anew_at_each_step_and_only_they) {
  // by default these are exact for short sequences
  if (GetParam().settings.empty() && (GetParam().kind == "reformer" || GetParam().kind == "hyper")) return;
  const SequenceLayout layout = layout_of({30}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto run = [&] { return mechanism_(rows, layout, false).to_vector<double>(); };
  const std::vector<double> first = run();
  mechanism_.step = 2;
  const bool changes = run() != first;
  const std::set<std::string> settings(GetParam().settings.begin(), GetParam().settings.end());
  EXPECT_EQ(changes, mechanism_.traits().stochastic && !settings.contains("form=expectation"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Contract, testing::ValuesIn(variants()),
                         [](const auto& info) { return info.param.label(); });

TEST(AttentionKinds, have_distinct_names_summaries_and_costs) {
  std::set<std::string_view> names;
  for (const AttentionKind& kind : attention_kinds()) {
    names.insert(kind.name);
    EXPECT_FALSE(kind.summary.empty());
    EXPECT_EQ(&find_attention_kind(kind.name), &kind);
    const Choice config(attention_choices(), kind.name);
    const double short_cost = kind.multiply_adds(config, shape, 1024),
                 long_cost = kind.multiply_adds(config, shape, 4096);
    // some work may not depend on the length
    const double growth = kind.traits.time == Growth::quadratic ? 16 : 4;
    EXPECT_LE(long_cost, (1 + 1e-9) * growth * short_cost) << kind.name;
    EXPECT_GE(long_cost, (1 + 1e-9) * growth / 4 * short_cost) << kind.name;
  }
  EXPECT_EQ(names.size(), attention_kinds().size());
  EXPECT_GE(names.size(), 3);
  EXPECT_EQ(thrown_error([] { find_attention_kind("nothing"); }).code(), ExitCode::bad_config);
}

TEST(AttentionKinds, wrong_settings_fail_with_their_name) {
  for (const AttentionKind& kind : attention_kinds()) {
    const Error error = thrown_error([&] { Mechanism({std::string(kind.name), {"no_such_key=1"}}, shape); });
    EXPECT_EQ(error.code(), ExitCode::bad_config);
    EXPECT_TRUE(mentions(error, "no_such_key")) << error.what();
  }
  EXPECT_EQ(thrown_error([] { Mechanism({"softmax", {"dropout=1"}}, shape); }).code(), ExitCode::bad_config);
  EXPECT_EQ(thrown_error([] { Mechanism({"yoso", {"bits=21"}}, shape); }).code(), ExitCode::bad_config);
  EXPECT_EQ(thrown_error([] { Mechanism({"yoso", {"conv_window=4"}}, shape); }).code(), ExitCode::bad_config);
}

}  // namespace
}  // namespace tern::test
