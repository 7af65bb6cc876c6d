#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/devices.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr std::int32_t mask_id = 99, first_id = 3, last_id = 13;

TokenMaskOptions options_of(double rate, double masked = 0.8, double replaced = 0.1) {
  return {rate, masked, replaced, mask_id, first_id, last_id, test_stream(21)};
}

MaskedTokens masked_on(Device device, const std::vector<std::int32_t>& ids, const SequenceLayout& layout,
                       const TokenMaskOptions& options) {
  const Tensor tokens = from_vector(ids, {layout.tokens()}, device);
  TokenMaskOptions there = options;
  there.stream = on(tokens, options.stream);
  return mask_tokens(tokens, on(tokens, layout), there, DType::float32);
}

std::vector<std::int32_t> ids_of(std::int64_t count) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>(20 + i % 50));
  return ids;
}

/// Word 0 of block `position` chooses, word 1 decides between mask, replacement and itself, word 2 replaces.
TEST(TokenMasking, follows_the_words_of_the_stream) {
  const SequenceLayout layout = layout_of({400, 0, 3, 700}, 4000, 3);
  const std::vector<std::int32_t> ids = ids_of(layout.tokens());
  const TokenMaskOptions options = options_of(0.4, 0.5, 0.3);
  std::vector<std::int32_t> expected = ids;
  std::vector<float> weights(ids.size());
  const auto sample = layout.token_sample.to_vector<std::int64_t>();
  const auto position = layout.position.to_vector<std::int32_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const PhiloxWords words = options.stream.words(sample[i], static_cast<std::uint64_t>(position[i]));
    const auto uniform = [&](int w) { return ((words.word[w] >> 9) + 0.5) / 8388608.0; };
    if (uniform(0) >= 0.4f) continue;
    weights[i] = 1;
    if (uniform(1) < 0.5f)
      expected[i] = mask_id;
    else if (uniform(1) < 0.5f + 0.3f)
      expected[i] = first_id + static_cast<std::int32_t>(std::floor(words.word[2] / 4294967296.0 * 10));
  }
  for (const Device device : test_devices()) {
    const MaskedTokens masked = masked_on(device, ids, layout, options);
    EXPECT_EQ(masked.tokens.to_vector<std::int32_t>(), expected);
    EXPECT_EQ(masked.weights.to_vector<float>(), weights);
  }
}

TEST(TokenMasking, takes_the_published_shares) {
  const SequenceLayout layout = layout_of({200'000}, 200'000);
  const std::vector<std::int32_t> ids(200'000, 50);
  const MaskedTokens masked = masked_on({}, ids, layout, options_of(0.15));
  const auto seen = masked.tokens.to_vector<std::int32_t>();
  const auto weights = masked.weights.to_vector<float>();
  std::map<std::int32_t, double> counts;
  double chosen = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    chosen += weights[i];
    if (weights[i] == 1) counts[seen[i]] += 1;
    EXPECT_TRUE(weights[i] == 1 || seen[i] == 50) << "a token that is not predicted is seen as it is";
  }
  EXPECT_NEAR(chosen, 30'000, 5 * std::sqrt(200'000 * 0.15 * 0.85));
  EXPECT_NEAR(counts[mask_id], 0.8 * chosen, 5 * std::sqrt(chosen * 0.8 * 0.2));
  EXPECT_NEAR(counts[50], 0.1 * chosen, 5 * std::sqrt(chosen * 0.1 * 0.9));
  EXPECT_EQ(counts.size(), 12u) << "the mask, the token itself, and each of ten ids";
  for (std::int32_t id = first_id; id < last_id; ++id)
    EXPECT_NEAR(counts[id], 0.01 * chosen, 5 * std::sqrt(0.01 * chosen)) << id;
}

/// The same two sequences in one batch, in two, and in the other order.
TEST(TokenMasking, does_not_depend_on_packing) {
  const std::vector<std::int32_t> ids = ids_of(120);
  std::vector<std::int32_t> position;
  for (int i = 0; i < 120; ++i) position.push_back(i < 70 ? i : i - 70);
  const auto part = [](const auto& values, std::int64_t from, std::int64_t to) {
    return std::vector(values.begin() + from, values.begin() + to);
  };
  const auto run = [&](const std::vector<std::int32_t>& tokens, const SequenceLayout& layout) {
    return masked_on({}, tokens, layout, options_of(0.5)).tokens.to_vector<std::int32_t>();
  };
  const auto both = run(ids, make_layout({0, 70, 120}, position, {5, 9}, 100));
  EXPECT_EQ(run(part(ids, 0, 70), make_layout({0, 70}, part(position, 0, 70), {5}, 100)), part(both, 0, 70));
  EXPECT_EQ(run(part(ids, 70, 120), make_layout({0, 50}, part(position, 70, 120), {9}, 100)),
            part(both, 70, 120));
  EXPECT_NE(run(part(ids, 70, 120), make_layout({0, 50}, part(position, 70, 120), {5}, 100)),
            part(both, 70, 120));
}

TEST(TokenMasking, never_chooses_unused_capacity) {
  std::vector<std::int32_t> position;
  for (int i = 0; i < 40; ++i) position.push_back(i);
  const SequenceLayout layout = make_layout(arrange_sequences({0, 40}, position, {0}, 100, 1024));
  for (const Device device : test_devices()) {
    const auto weights = masked_on(device, ids_of(1024), layout, options_of(1)).weights.to_vector<float>();
    EXPECT_EQ(std::vector(weights.begin(), weights.begin() + 40), std::vector<float>(40, 1));
    EXPECT_EQ(std::vector(weights.begin() + 40, weights.end()), std::vector<float>(984, 0));
  }
}

TEST(TokenMasking, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor ids = zeros({2}, DType::int32);
  EXPECT_TRUE(mentions(
      thrown_error([&] { mask_tokens(zeros({3}, DType::int32), layout, options_of(0.1), DType::float32); }),
      "mask_tokens: needs contiguous ids [2]"));
  EXPECT_TRUE(
      mentions(thrown_error([&] { mask_tokens(ids, layout, options_of(0.1, 0.9, 0.2), DType::float32); }),
               "mask_tokens: rates and shares must lie in [0, 1]"));
}

}  // namespace
}  // namespace tern::test
