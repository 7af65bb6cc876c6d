#include "tasks/listops_generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "data/record_file.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "tern/device.h"

namespace tern::tasks {
namespace {

using test::mentions;
using test::TemporaryFolder;
using test::thrown_error;

using Tokens = std::vector<std::uint8_t>;

ListopsOptions short_options(std::int64_t train = 2000) {
  return {.min_length = 20,
          .max_length = 100,
          .depth = 5,
          .arguments = 4,
          .train = train,
          .dev = 100,
          .test = 50,
          .seed = 3};
}

/// Uniform numbers for the reference below; a generator of its own (Knuth's MMIX constants).
class Numbers {
 public:
  double uniform() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  int below(int count) { return static_cast<int>(uniform() * count); }

 private:
  std::uint64_t state_ = 20;
};

struct Tree {
  int value = 0, length = 1, levels = 1;  // levels: operators and digits on the longest way down
};

/// The published rule, word for word: recursive, children before their operator, values in double.
Tree published_tree(Numbers& numbers, int depth, int max_depth, int max_arguments) {
  const double r = depth < max_depth ? numbers.uniform() : 1;
  if (r > 0.25) return {numbers.below(10), 1, 1};
  std::vector<double> values;
  Tree tree{0, 2, 0};
  for (int count = 2 + numbers.below(max_arguments - 1); count > 0; --count) {
    const Tree child = published_tree(numbers, depth + 1, max_depth, max_arguments);
    values.push_back(child.value);
    tree.length += child.length;
    tree.levels = std::max(tree.levels, child.levels);
  }
  ++tree.levels;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  const double median = (values[(n - 1) / 2] + values[n / 2]) / 2;
  const double results[4] = {values.front(), values.back(), std::trunc(median),
                             std::fmod(std::accumulate(values.begin(), values.end(), 0.0), 10)};
  tree.value = static_cast<int>(results[numbers.below(4)]);
  return tree;
}

/// A third reading: repeatedly replaces an innermost operator by its value.
int value_by_rewriting(const Tokens& given) {
  std::vector<int> tokens(given.begin(), given.end());
  while (tokens.size() > 1) {
    const auto close = std::find(tokens.begin(), tokens.end(), int{listops_close});
    auto open = close;
    while (*open < listops_min || *open > listops_sm) --open;
    std::vector<int> values;
    for (auto at = open + 1; at != close; ++at) values.push_back(*at - 1);
    std::sort(values.begin(), values.end());
    const double half = (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2.0;
    int value = values.front();
    if (*open == listops_max) value = values.back();
    if (*open == listops_med) value = static_cast<int>(half);
    if (*open == listops_sm) value = std::accumulate(values.begin(), values.end(), 0) % 10;
    *open = value + 1;
    tokens.erase(open + 1, close + 1);
  }
  return tokens.at(0) - 1;
}

/// Deepest nesting, digits included; 0 for a sequence whose operators and closing marks do not pair.
int levels_of(std::span<const std::uint8_t> tokens) {
  int open = 0, deepest = 0;
  for (const std::uint8_t token : tokens) {
    if (token >= listops_min && token <= listops_sm) ++open;
    if (token == listops_close) --open;
    if (token < listops_min) deepest = std::max(deepest, open + 1);
    if (open < 0) return 0;
  }
  return open == 0 ? deepest : 0;
}

TEST(evaluate_listops, follows_the_rule_on_hand_made_trees) {
  const auto digit = [](int d) { return static_cast<std::uint8_t>(listops_digit + d); };
  const std::uint8_t close = listops_close, low = listops_min, high = listops_max, med = listops_med,
                     sum = listops_sm;
  EXPECT_EQ(evaluate_listops(Tokens{digit(7)}), 7);
  EXPECT_EQ(evaluate_listops(Tokens{low, digit(7), digit(3), digit(5), close}), 3);
  EXPECT_EQ(evaluate_listops(Tokens{high, digit(7), digit(3), digit(9), close}), 9);
  EXPECT_EQ(evaluate_listops(Tokens{med, digit(9), digit(1), digit(4), close}), 4);
  EXPECT_EQ(evaluate_listops(Tokens{med, digit(8), digit(1), digit(4), digit(5), close}),
            4);  // 4.5 is cut to 4
  EXPECT_EQ(evaluate_listops(Tokens{med, digit(0), digit(9), close}), 4);
  EXPECT_EQ(evaluate_listops(Tokens{sum, digit(9), digit(9), digit(9), close}), 7);
  EXPECT_EQ(evaluate_listops(
                Tokens{high, digit(2), low, digit(4), digit(7), close, sum, digit(1), digit(2), close, close}),
            4);
}

TEST(evaluate_listops, refuses_malformed_sequences) {
  const std::vector<Tokens> bad{{},
                                {0},
                                {16},
                                {15},
                                {11},
                                {1, 2},
                                {11, 1, 2},
                                {1, 2, 15},
                                {11, 15},
                                {11, 1, 2, 15, 15},
                                {11, 12, 1, 15},
                                {11, 1, 0, 15},
                                {11, 1, 2, 15, 3},
                                {15, 1, 2, 11}};
  for (const Tokens& tokens : bad) {
    EXPECT_EQ(thrown_error([&] { evaluate_listops(tokens); }).code(), ExitCode::bad_data) << tokens.size();
  }
}

TEST(generate_listops, labels_agree_with_two_independent_evaluators) {
  const ListopsSet set = generate_listops(short_options(20000));
  ASSERT_EQ(set.count(), 20150);
  for (std::int64_t i = 0; i < set.count(); ++i) {
    const Tokens tokens(set.sequence(i).begin(), set.sequence(i).end());
    const int label = set.labels[static_cast<std::size_t>(i)];
    ASSERT_EQ(evaluate_listops(tokens), label) << i;
    ASSERT_EQ(value_by_rewriting(tokens), label) << i;
  }
}

TEST(generate_listops, the_published_options_keep_lengths_depth_and_arguments) {
  const ListopsSet set = generate_listops({.train = 1500, .dev = 0, .test = 0});
  ASSERT_EQ(set.count(), 1500);
  int deepest = 0;
  std::set<Tokens> distinct;
  for (std::int64_t i = 0; i < set.count(); ++i) {
    const Tokens tokens(set.sequence(i).begin(), set.sequence(i).end());
    ASSERT_GT(tokens.size(), 500u);
    ASSERT_LT(tokens.size(), 2000u);
    const int levels = levels_of(tokens);
    ASSERT_GE(levels, 2);
    ASSERT_LE(levels, 10);
    deepest = std::max(deepest, levels);
    ASSERT_EQ(evaluate_listops(tokens), set.labels[static_cast<std::size_t>(i)]);
    distinct.insert(tokens);
  }
  EXPECT_EQ(deepest, 10);
  EXPECT_EQ(distinct.size(), 1500u);
}

/// Numbers of arguments of all operators below depth 1 - their distribution is not distorted by the choice of
/// lengths when all lengths are accepted.
TEST(generate_listops, arguments_and_operators_are_uniform_when_every_length_is_accepted) {
  const ListopsSet set = generate_listops({.min_length = 4,
                                           .max_length = 1 << 20,
                                           .depth = 3,
                                           .arguments = 10,
                                           .train = 20000,
                                           .dev = 0,
                                           .test = 0});
  std::array<std::int64_t, 11> arguments{};
  std::array<std::int64_t, 4> operators{};
  for (std::int64_t i = 0; i < set.count(); ++i) {
    const auto tokens = set.sequence(i);
    int depth = 0, children = 0;
    for (const std::uint8_t token : tokens) {
      if (depth == 1 && token != listops_close) ++children;
      if (token >= listops_min && token <= listops_sm) {
        ++depth;
        ++operators[static_cast<std::size_t>(token - listops_min)];
      }
      if (token == listops_close) --depth;
    }
    ++arguments.at(static_cast<std::size_t>(children));
  }
  EXPECT_EQ(arguments[0] + arguments[1], 0);
  // Roots with two digits repeat and are dropped (about 5,000 candidates over 400 trees), with three some; so
  // the share is checked from five arguments on, relative to their sum.
  const double from_five =
      static_cast<double>(std::accumulate(arguments.begin() + 5, arguments.end(), std::int64_t{0}));
  ASSERT_GT(from_five, 5000);
  for (std::size_t count = 5; count <= 10; ++count) {
    const double expected = from_five / 6;
    EXPECT_NEAR(static_cast<double>(arguments[count]), expected, 4.5 * std::sqrt(expected)) << count;
  }
  const double all = static_cast<double>(std::accumulate(operators.begin(), operators.end(), std::int64_t{0}));
  for (const std::int64_t count : operators) {
    EXPECT_NEAR(static_cast<double>(count), all / 4, 4.5 * std::sqrt(all / 4));
  }
}

TEST(generate_listops, its_distribution_is_the_published_rules) {
  const ListopsOptions options = short_options(20000);
  const ListopsSet set = generate_listops(options);
  Numbers numbers;
  std::array<double, 10> labels{}, published_labels{};
  std::array<double, 6> levels{}, published_levels{};
  double length = 0, published_length = 0, square = 0, accepted = 0, candidates = 0;
  for (; accepted < 20150; ++candidates) {
    const Tree tree = published_tree(numbers, 1, options.depth, options.arguments);
    if (tree.length < options.min_length || tree.length > options.max_length) continue;
    ++accepted;
    ++published_labels[static_cast<std::size_t>(tree.value)];
    ++published_levels.at(static_cast<std::size_t>(tree.levels));
    published_length += tree.length;
    square += static_cast<double>(tree.length) * tree.length;
  }
  for (std::int64_t i = 0; i < set.count(); ++i) {
    ++labels[set.labels[static_cast<std::size_t>(i)]];
    ++levels.at(static_cast<std::size_t>(levels_of(set.sequence(i))));
    length += static_cast<double>(set.sequence(i).size());
  }
  const double n = static_cast<double>(set.count());
  ASSERT_EQ(n, accepted);
  const double mean = published_length / n, deviation = std::sqrt(square / n - mean * mean);
  EXPECT_NEAR(length / n, mean, 4 * deviation * std::sqrt(2 / n));
  // Of N candidates a share p is accepted: N's deviation for n accepted is sqrt(n (1 - p)) / p.
  const double share = accepted / candidates;
  EXPECT_NEAR(static_cast<double>(set.candidates), candidates, 4 * std::sqrt(2 * n * (1 - share)) / share);
  for (std::size_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(labels[i], published_labels[i], 4.5 * std::sqrt(labels[i] + published_labels[i]))
        << "label " << i;
  }
  for (std::size_t i = 0; i < levels.size(); ++i) {
    EXPECT_NEAR(levels[i], published_levels[i], 4.5 * std::sqrt(levels[i] + published_levels[i]))
        << "levels " << i;
  }
}

TEST(generate_listops, seeds_decide_and_threads_do_not) {
  const auto made = [](std::uint64_t seed, int count) {
    set_threads(count);
    ListopsOptions options = short_options();
    options.seed = seed;
    ListopsSet set = generate_listops(options);
    set_threads(0);
    return set;
  };
  const ListopsSet first = made(1, 1);
  for (const int count : {2, 3, 8}) {
    const ListopsSet again = made(1, count);
    EXPECT_EQ(again.tokens, first.tokens);
    EXPECT_EQ(again.offsets, first.offsets);
    EXPECT_EQ(again.labels, first.labels);
    EXPECT_EQ(again.candidates, first.candidates);
  }
  EXPECT_NE(made(2, 1).tokens, first.tokens);
}

TEST(generate_listops, finds_every_tree_of_a_small_space_and_stops_when_asked_for_more) {
  // Ten digits, and four operators over two digits each.
  ListopsOptions options{
      .min_length = 1, .max_length = 4, .depth = 2, .arguments = 2, .train = 410, .dev = 0, .test = 0};
  const ListopsSet set = generate_listops(options);
  std::set<Tokens> distinct;
  for (std::int64_t i = 0; i < set.count(); ++i)
    distinct.emplace(set.sequence(i).begin(), set.sequence(i).end());
  EXPECT_EQ(distinct.size(), 410u);
  options.train = 411;
  const Error error = thrown_error([&] { generate_listops(options); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_TRUE(mentions(error, "got 410 in")) << error.what();
  options = {.min_length = 100, .max_length = 200, .depth = 2, .arguments = 5, .train = 1, .dev = 0, .test = 0};
  EXPECT_TRUE(mentions(thrown_error([&] { generate_listops(options); }), "got 0 in"));
}

TEST(generate_listops, options_are_checked) {
  const auto refused = [](const ListopsOptions& options) {
    EXPECT_EQ(thrown_error([&] { generate_listops(options); }).code(), ExitCode::failed);
  };
  refused({.min_length = 0});
  refused({.min_length = 10, .max_length = 9});
  refused({.depth = 0});
  refused({.depth = 65});
  refused({.arguments = 1});
  refused({.train = -1});
}

TEST(prepare_listops, writes_three_splits_that_verify_and_share_no_tree) {
  TemporaryFolder folder;
  const ListopsOptions options = short_options();
  Preparation preparation({.folder = folder / "deep/listops"}, listops_header(options));
  const ListopsSet set = generate_listops(options);
  EXPECT_EQ(prepare_listops(options, preparation), set.candidates);
  std::set<Tokens> distinct;
  std::int64_t at = 0;
  std::vector<std::filesystem::path> files;
  for (const std::string_view split : split_names) {
    files.push_back(split_file(folder / "deep/listops", split));
    const data::RecordFile file(files.back());
    const SplitStatistics statistics = statistics_of({files.back()});
    file.verify();
    EXPECT_EQ(file.header().split, split);
    EXPECT_EQ(file.header().padded_length, 128);
    EXPECT_EQ(file.header().seed, 3u);
    EXPECT_TRUE(file.header().options.find("\"depth\":5") != std::string::npos) << file.header().options;
    ASSERT_EQ(statistics.records, file.count());
    std::vector<std::int64_t> labels(10);
    double total = 0;
    for (std::int64_t record = 0; record < file.count(); ++record, ++at) {
      Tokens tokens;
      for (std::int64_t i = 0; i < file.tokens(record).size(); ++i) {
        tokens.push_back(static_cast<std::uint8_t>(file.tokens(record)[i]));
      }
      ASSERT_EQ(evaluate_listops(tokens), file.label(record));
      ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), set.sequence(at).begin(), set.sequence(at).end()));
      ++labels.at(static_cast<std::size_t>(file.label(record)));
      total += static_cast<double>(tokens.size());
      distinct.insert(tokens);
    }
    EXPECT_EQ(labels, statistics.labels);
    EXPECT_NEAR(statistics.mean_length, total / static_cast<double>(file.count()), 1e-9);
    EXPECT_EQ(statistics.longest, file.header().longest);
    EXPECT_DOUBLE_EQ(statistics.majority_share,
                     static_cast<double>(*std::max_element(labels.begin(), labels.end())) /
                         static_cast<double>(file.count()));
  }
  EXPECT_EQ(distinct.size(), 2150u);
  EXPECT_EQ(statistics_of(files).records, 2150);
  test::write_bytes(folder / "file", "text");
  EXPECT_EQ(thrown_error([&] { Preparation({.folder = folder / "file"}, listops_header(options)); }).code(),
            ExitCode::cannot_create);
}

}  // namespace
}  // namespace tern::tasks
