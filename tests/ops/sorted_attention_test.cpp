// Sorting and attention in blocks of sorted tokens against their definitions, written with lists of places and
// whole rows of weights.
#include <algorithm>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// Integers in [0, count), by `seed` alone.
Tensor random_codes(const Shape& shape, int count, std::uint64_t seed) {
  const Array drawn = uniform_array(shape, seed, 0, count);
  std::vector<std::int32_t> out;
  for (const double value : drawn.values) out.push_back(std::min(static_cast<std::int32_t>(value), count - 1));
  return from_vector(out, shape);
}

/// Place of a code in the Gray order, by counting.
int gray_place(int code) {
  for (int place = 0;; ++place)
    if ((place ^ place >> 1) == code) return place;
}

/// A sequence's tokens in the order of their codes in one head and round.
std::vector<int> sorted_by(const std::vector<std::int32_t>& codes, std::int64_t list, std::int64_t tokens,
                           int begin, int end, bool gray) {
  std::vector<int> out;
  for (int token = begin; token < end; ++token) out.push_back(token);
  std::stable_sort(out.begin(), out.end(), [&](int a, int b) {
    const auto rank = [&](int token) {
      const int code = codes[static_cast<std::size_t>(list * tokens + token)];
      return gray ? gray_place(code) : code;
    };
    return rank(a) < rank(b);
  });
  return out;
}

struct Example {
  SequenceLayout layout;
  Tensor query_codes, key_codes;
  int bits;
  bool gray;
  SortedAttentionOptions options;

  SortedTokens sorted(const Tensor& like, const Tensor& codes) const {
    return sort_tokens(on(like, codes), bits, on(like, layout), options.blocks, gray);
  }
  Tensor operator()(std::span<const Tensor> x) const {
    SortedAttentionOptions settings = options;
    settings.stream = on(x[0], options.stream);
    const SortedTokens queries = sorted(x[0], query_codes);
    const bool are_shared = query_codes.shares_storage_with(key_codes);
    return sorted_attention(x[0], x[1], x[2], on(x[0], layout), queries,
                            are_shared ? queries : sorted(x[0], key_codes), settings);
  }
};

/// Block of each token of a sequence (by its number in the sequence) in one list.
std::vector<int> blocks_of(const Example& example, const Tensor& codes, std::int64_t list, int begin, int end) {
  const std::vector<int> order =
      sorted_by(codes.to_vector<std::int32_t>(), list, example.layout.tokens(), begin, end, example.gray);
  const int size = end - begin <= example.options.blocks.whole ? end - begin : example.options.blocks.size;
  std::vector<int> out(order.size());
  for (std::size_t place = 0; place < order.size(); ++place)
    out[static_cast<std::size_t>(order[place] - begin)] = static_cast<int>(place) / size;
  return out;
}

/// seen[i][j]: in how many rounds query i of a sequence sees key j.
std::vector<std::vector<int>> seen_keys(const Example& example, std::int64_t head, int begin, int end) {
  const auto tokens = static_cast<std::size_t>(end - begin);
  const std::int64_t rounds = example.query_codes.size(1), all = example.layout.tokens();
  const BlockReach reach = example.options.blocks.reach;
  const auto query_codes = example.query_codes.to_vector<std::int32_t>(),
             key_codes = example.key_codes.to_vector<std::int32_t>();
  std::vector<std::vector<int>> seen(tokens, std::vector<int>(tokens, 0));
  for (std::int64_t round = 0; round < rounds; ++round) {
    const std::int64_t list = head * rounds + round, before = head * rounds + (round + rounds - 1) % rounds;
    const std::vector<int> query_block = blocks_of(example, example.query_codes, list, begin, end),
                           key_block = blocks_of(example, example.key_codes, list, begin, end),
                           earlier_block = blocks_of(example, example.key_codes, before, begin, end);
    const int last = *std::max_element(key_block.begin(), key_block.end());
    for (std::size_t i = 0; i < tokens; ++i)
      for (std::size_t j = 0; j < tokens; ++j) {
        const int behind = query_block[i] - key_block[j];
        const auto code = [&](const std::vector<std::int32_t>& codes, std::size_t token) {
          return codes[static_cast<std::size_t>(list * all + begin) + token];
        };
        if (behind == 0 || (behind == 1 && reach != BlockReach::own))
          seen[i][j] +=
              reach != BlockReach::previous_code || code(query_codes, i) == code(key_codes, j) ? 1 : 0;
        if (reach == BlockReach::previous && last > 0 && query_block[i] == 0 && earlier_block[j] == last)
          ++seen[i][j];
      }
  }
  return seen;
}

/// The numbers, in their sequence, of the sampled keys.
std::vector<int> samples_of(const Example& example, std::int64_t sample, std::uint64_t head, int tokens) {
  std::vector<int> out;
  if (tokens <= example.options.blocks.whole) return out;
  for (std::uint64_t slot = 0; slot < static_cast<std::uint64_t>(example.options.samples); ++slot) {
    const std::uint32_t word = example.options.stream.words(sample, head << 32 | slot / 4).word[slot % 4];
    out.push_back(static_cast<int>(static_cast<double>(word) * 0x1p-32 * tokens));
  }
  return out;
}

/// multiplicity[j] of the weight exp(logit) of each key of query i.
std::vector<double> multiplicities(const Example& example, const std::vector<int>& seen,
                                   const std::vector<int>& samples) {
  std::vector<double> out(seen.size());
  for (std::size_t j = 0; j < seen.size(); ++j)
    out[j] = example.options.counts_once ? std::min(seen[j], 1) : seen[j];
  for (const int j : samples)
    if (seen[static_cast<std::size_t>(j)] == 0)
      out[static_cast<std::size_t>(j)] += static_cast<double>(seen.size()) / example.options.samples;
  return out;
}

Array attended_by(const Example& example, const Arrays& x) {
  const std::int64_t heads = x[0].size(1), width = x[0].size(2);
  const auto offsets = example.layout.offsets.to_vector<std::int32_t>();
  const auto sample = example.layout.sample.to_vector<std::int64_t>();
  Array out(x[0].shape);
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t h = 0; h < heads && offsets[s] < offsets[s + 1]; ++h) {
      const int begin = offsets[s], tokens = offsets[s + 1] - begin;
      const auto seen = seen_keys(example, h, begin, begin + tokens);
      const auto samples = samples_of(example, sample[s], static_cast<std::uint64_t>(h), tokens);
      for (int i = 0; i < tokens; ++i) {
        const auto many = multiplicities(example, seen[static_cast<std::size_t>(i)], samples);
        std::vector<double> logit(many.size());
        double largest = -INFINITY, total = 0;
        const std::int64_t a = ((begin + i) * heads + h) * width;
        for (std::size_t j = 0; j < many.size(); ++j) {
          const std::int64_t b = ((begin + static_cast<int>(j)) * heads + h) * width;
          for (std::int64_t c = 0; c < width; ++c)
            logit[j] += example.options.scale * x[0][a + c] * x[1][b + c];
          if (example.options.excludes_self && i == static_cast<int>(j)) logit[j] -= 1e5;
          if (many[j] > 0) largest = std::max(largest, logit[j]);
        }
        std::vector<double> weight(many.size());
        for (std::size_t j = 0; j < many.size(); ++j)
          if (many[j] > 0) total += weight[j] = many[j] * std::exp(logit[j] - largest);
        for (std::size_t j = 0; j < many.size(); ++j)
          for (std::int64_t c = 0; c < width; ++c)
            out[a + c] += weight[j] / total * x[2][((begin + static_cast<int>(j)) * heads + h) * width + c];
      }
    }
  return out;
}

OpCase case_of(const std::string& name, const Example& example, std::int64_t width) {
  const Shape shape{example.layout.tokens(), example.query_codes.size(0), width};
  return {.name = name,
          .inputs = {normal_array(shape, 400), normal_array(shape, 401), normal_array(shape, 402)},
          .function = one_result([=](std::span<const Tensor> x) { return example(x); }),
          .reference = one_array([=](const Arrays& x) { return attended_by(example, x); }),
          .reduction_length = 400,
          .is_empty = example.layout.tokens() == 0};
}

Example shared_codes(const std::vector<int>& lengths, int rounds, int codes, const BlockOptions& blocks) {
  const int padded_length = std::max(300, *std::max_element(lengths.begin(), lengths.end()));
  Example out{layout_of(lengths, padded_length), {}, {}, 5, false, {}};
  out.query_codes = out.key_codes = random_codes({2, rounds, out.layout.tokens()}, codes, 410);
  out.options.blocks = blocks;
  out.options.scale = 0.4;
  return out;
}

/// Reformer's settings: shared sorts, a block and the one before, no token to itself.
TEST(SortedAttention, blocks_see_the_block_before) {
  std::vector<OpCase> cases;
  for (const bool counts_once : {false, true})
    for (const BlockReach reach : {BlockReach::own, BlockReach::previous, BlockReach::previous_code}) {
      Example example = shared_codes({37, 1, 0, 9, 8, 70}, 3, 5, {8, 0, reach});
      example.options.excludes_self = true;
      example.options.counts_once = counts_once;
      if (counts_once && reach == BlockReach::previous) continue;
      cases.push_back(case_of("rounds", example, 6));
      example.options.excludes_self = false;
      example.options.blocks.size = 5;
      cases.push_back(case_of("blocks of 5, self", example, 3));
    }
  Example wide = shared_codes({80}, 2, 4, {64, 0, BlockReach::previous});
  wide.options.excludes_self = true;
  cases.push_back(case_of("blocks of 64", wide, 66));
  wide.options.blocks.reach = BlockReach::previous_code;
  wide.options.counts_once = true;
  cases.push_back(case_of("blocks of 64, once", wide, 66));
  Example widest = shared_codes({37, 70}, 2, 5, {8, 0, BlockReach::previous_code});
  widest.options.excludes_self = widest.options.counts_once = true;
  for (const std::int64_t width : {33, 128, 200}) cases.push_back(case_of("wide heads", widest, width));
  for (const bool counts_once : {false, true}) {  // tiles on a GPU begin inside blocks, and several meet one
    Example tiles = shared_codes({230, 65}, 2, 9, {96, 0, BlockReach::previous_code});
    if (!counts_once) tiles.options.blocks.reach = BlockReach::previous;
    tiles.options.excludes_self = tiles.options.counts_once = counts_once;
    cases.push_back(case_of("blocks of 96", tiles, 16));
  }
  cases.push_back(case_of("no tokens", shared_codes({0, 0}, 2, 4, {8, 0, BlockReach::previous}), 4));
  check(cases);
}

/// HyperAttention's settings: sorts of their own, samples outside the block.
TEST(SortedAttention, samples_stand_for_what_the_blocks_leave_out) {
  std::vector<OpCase> cases;
  for (const int samples : {0, 3, 70})
    for (const std::int64_t whole : {0, 20}) {
      Example example = shared_codes({37, 1, 0, 20, 100}, 1, 32, {16, whole, BlockReach::own});
      example.key_codes = random_codes(example.key_codes.shape(), 32, 411);
      example.gray = true;
      example.options.samples = samples;
      example.options.stream = test_stream(412);
      cases.push_back(case_of(format_text("{} samples, whole {}", samples, whole), example, 5));
      if (samples == 70) cases.push_back(case_of("samples in wide heads", example, 136));
    }
  Example tiles = shared_codes({150, 65}, 1, 32, {70, 0, BlockReach::own});
  tiles.key_codes = random_codes(tiles.key_codes.shape(), 32, 411);
  tiles.options.samples = 140;
  tiles.options.stream = test_stream(412);
  cases.push_back(case_of("several tiles of samples", tiles, 16));
  check(cases);
}

/// Sequences so long that a GPU adds gradients of sampled keys over several pieces of their queries.
TEST(SortedAttention, samples_of_long_sequences_are_those_of_the_cpu) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  const auto run = [](Device device) {
    Example example = shared_codes({9000, 50, 2100}, 1, 32, {256, 0, BlockReach::own});
    example.options.samples = 70;
    example.options.stream = test_stream(417);
    std::vector<Tensor> leaves;
    for (const std::uint64_t seed : {418, 419, 420})
      leaves.push_back(leaf(tensor_of(normal_array({11150, 2, 9}, seed), DType::float64, device)));
    const Tensor y = example(leaves), dy = tensor_of(normal_array({11150, 2, 9}, 421), DType::float64, device);
    backward(std::span(&y, 1), std::span(&dy, 1));
    std::vector<std::vector<double>> all{y.to_vector<double>()};
    for (const Tensor& x : leaves) all.push_back(gradient_of(x).to_vector<double>());
    return all;
  };
  const auto here = run({DeviceType::cuda, 0}), there = run({});
  for (std::size_t i = 0; i < here.size(); ++i) EXPECT_EQ(difference(here[i], there[i], 1e-9), "") << i;
}

TEST(SortedAttention, tokens_are_sorted_stably_inside_sequences) {
  for (const Device device : test_devices())
    for (const bool gray : {false, true}) {
      const SequenceLayout layout = layout_of({50, 0, 1, 700, 3}, 800);
      const Tensor codes = random_codes({3, 2, 754}, 61, 413), like = empty({}, DType::float32, device);
      const BlockOptions blocks{16, 3, BlockReach::previous_code};
      const SortedTokens sorted = sort_tokens(on(like, codes), 6, on(like, layout), blocks, gray);
      const auto order = sorted.order.to_vector<std::int32_t>(),
                 segment = sorted.segment.to_vector<std::int32_t>();
      const auto values = codes.to_vector<std::int32_t>(), offsets = layout.offsets.to_vector<std::int32_t>();
      for (std::int64_t list = 0; list < 6; ++list)
        for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
          const auto expected = sorted_by(values, list, 754, offsets[s], offsets[s + 1], gray);
          for (std::size_t p = 0; p < expected.size(); ++p) {
            const auto at = [&](std::size_t token) { return static_cast<std::size_t>(list * 754) + token; };
            ASSERT_EQ(order[at(static_cast<std::size_t>(offsets[s]) + p)], expected[p]) << list << " " << s;
            const auto token = static_cast<std::size_t>(expected[p]);
            const int code = gray ? gray_place(values[at(token)]) : values[at(token)];
            ASSERT_EQ(segment[at(token)], 2 * code + (expected.size() <= 3 ? 0 : static_cast<int>(p) / 16));
          }
        }
    }
}

TEST(SortedAttention, wrong_arguments_are_named) {
  const SequenceLayout layout = layout_of({10}, 10);
  const Tensor x = zeros({10, 2, 4}, DType::float32), codes = random_codes({2, 1, 10}, 4, 416);
  const SortedTokens sorted = sort_tokens(codes, 2, layout, {});
  EXPECT_TRUE(mentions(thrown_error([&] { sort_tokens(codes, 17, layout, {}); }), "bits"));
  EXPECT_TRUE(mentions(thrown_error([&] { sort_tokens(codes, 2, layout, {.size = 0}); }), "blocks"));
  EXPECT_TRUE(mentions(thrown_error([&] { sort_tokens(x, 2, layout, {}); }), "int32"));
  EXPECT_TRUE(mentions(thrown_error([&] { rotation_codes(x, layout, {1, 8, 3}, test_stream(1)); }), "even"));
  EXPECT_TRUE(mentions(thrown_error([&] { rotation_codes(x, layout, {0, 8, 2}, test_stream(1)); }), "rounds"));
  const SortedTokens three = sort_tokens(random_codes({3, 1, 10}, 4, 416), 2, layout, {});
  EXPECT_TRUE(mentions(thrown_error([&] { sorted_attention(x, x, x, layout, three, three, {}); }), "heads"));
  const SortedTokens again = sort_tokens(codes, 2, layout, {});
  SortedAttentionOptions by_code;
  by_code.blocks.reach = BlockReach::previous_code;
  EXPECT_TRUE(
      mentions(thrown_error([&] { sorted_attention(x, x, x, layout, sorted, again, by_code); }), "one sort"));
  const SortedTokens rounds = sort_tokens(random_codes({2, 3, 10}, 4, 416), 2, layout, {});
  EXPECT_TRUE(mentions(thrown_error([&] { sorted_attention(x, x, x, layout, rounds, rounds, {.samples = 4}); }),
                       "one round"));
}

}  // namespace
}  // namespace tern::test
