// Candidates are drawn and filtered in parallel; what is kept is decided in the order of the candidates.
#include "tasks/listops_generator.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/parallel.h"
#include "data/record_file.h"
#include "io/hash.h"
#include "io/json.h"
#include "tasks/sample_words.h"
#include "tern/error.h"
#include "tern/random.h"

namespace tern::tasks {
namespace {

constexpr int depth_cap = 64;
constexpr std::int64_t chunk = 4096;           // candidates that one thread draws at a time
constexpr std::int64_t chunks_per_round = 64;  // fixed, so that the result knows no number of threads
constexpr std::int64_t patience = std::int64_t{1} << 23;
constexpr std::int64_t candidates_per_tree = std::int64_t{1} << 16;

/// Uniform in [0, count) from 30 random bits (each value's share is off by less than count / 2^30).
std::uint32_t choose(std::uint32_t bits, std::uint32_t count) {
  return static_cast<std::uint32_t>((std::uint64_t{bits} * count) >> 30);
}

/// Appends the tree of one candidate to `out` if its length is accepted; else leaves `out` as it was. The top
/// two bits of a node's word decide whether it is an operator; the others choose the digit, or operator and
/// arguments.
bool draw_tree(const ListopsOptions& options, SampleWords& words, std::vector<std::uint8_t>& out) {
  const std::size_t start = out.size();
  const auto argument_choices = static_cast<std::uint32_t>(options.arguments - 1);
  int open_arguments[depth_cap];  // nodes still to draw below each open operator
  int open = 0;
  int length = 1;  // tokens drawn and tokens that must still come
  for (;;) {
    const std::uint32_t word = words.next(), bits = word & 0x3FFFFFFFu;
    if (word >> 30 == 0 && open + 1 < options.depth) {
      const std::uint32_t choice = choose(bits, 4 * argument_choices);
      const int arguments = 2 + static_cast<int>(choice / 4);
      length += 1 + arguments;
      if (length > options.max_length) break;
      out.push_back(static_cast<std::uint8_t>(listops_min + choice % 4));
      open_arguments[open++] = arguments;
      continue;
    }
    out.push_back(static_cast<std::uint8_t>(listops_digit + choose(bits, 10)));
    while (open > 0 && --open_arguments[open - 1] == 0) {
      out.push_back(listops_close);
      --open;
    }
    if (open == 0) break;
  }
  if (length >= options.min_length && length <= options.max_length) return true;
  out.resize(start);
  return false;
}

int combine(std::uint8_t token, std::span<int> values) {
  if (token == listops_min) return *std::min_element(values.begin(), values.end());
  if (token == listops_max) return *std::max_element(values.begin(), values.end());
  if (token == listops_sm) {
    int sum = 0;
    for (const int value : values) sum += value;
    return sum % 10;
  }
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Value of the node at `at`, which moves behind it; by descent from left to right.
int label_of(std::span<const std::uint8_t> tokens, std::size_t& at) {
  const std::uint8_t token = tokens[at++];
  if (token < listops_min) return token - listops_digit;
  std::vector<int> values;
  while (tokens[at] != listops_close) values.push_back(label_of(tokens, at));
  ++at;
  return combine(token, values);
}

/// Accepted trees of one chunk of candidates.
struct Drawn {
  std::vector<std::uint8_t> tokens;
  std::vector<std::size_t> ends;
  std::vector<std::int64_t> candidates;
  std::vector<std::uint8_t> labels;
  std::vector<io::Hash128> hashes;

  std::span<const std::uint8_t> sequence(std::size_t i) const {
    const std::size_t begin = i == 0 ? 0 : ends[i - 1];
    return std::span(tokens).subspan(begin, ends[i] - begin);
  }
};

Drawn draw_chunk(const ListopsOptions& options, PhiloxKey key, std::int64_t first) {
  Drawn drawn;
  for (std::int64_t candidate = first; candidate < first + chunk; ++candidate) {
    const std::size_t begin = drawn.tokens.size();
    SampleWords words(key, candidate);
    if (!draw_tree(options, words, drawn.tokens)) continue;
    const auto tree = std::span<const std::uint8_t>(drawn.tokens).subspan(begin);
    std::size_t at = 0;
    drawn.ends.push_back(drawn.tokens.size());
    drawn.candidates.push_back(candidate);
    drawn.labels.push_back(static_cast<std::uint8_t>(label_of(tree, at)));
    drawn.hashes.push_back(io::hash_of(std::as_bytes(tree)));
  }
  return drawn;
}

/// The trees kept so far. Equal hashes are compared token by token, so no tree is lost to a collision.
class DistinctTrees {
 public:
  bool add(std::span<const std::uint8_t> tree, io::Hash128 hash, std::uint8_t label) {
    const auto [first, last] = by_hash_.equal_range(hash.low);
    for (auto entry = first; entry != last; ++entry) {
      const auto kept = set_.sequence(entry->second);
      if (std::equal(kept.begin(), kept.end(), tree.begin(), tree.end())) return false;
    }
    by_hash_.emplace(hash.low, set_.count());
    set_.tokens.insert(set_.tokens.end(), tree.begin(), tree.end());
    set_.offsets.push_back(set_.tokens.size());
    set_.labels.push_back(label);
    return true;
  }
  std::int64_t count() const { return set_.count(); }
  ListopsSet take(std::int64_t candidates) {
    set_.candidates = candidates;
    return std::move(set_);
  }

 private:
  ListopsSet set_;
  std::unordered_multimap<std::uint64_t, std::int64_t> by_hash_;
};

void check(const ListopsOptions& options) {
  require(
      options.min_length >= 1 && options.min_length <= options.max_length && options.max_length <= (1 << 24),
      "listops: lengths must satisfy 1 <= min_length <= max_length <= 2^24, got {} and {}", options.min_length,
      options.max_length);
  require(options.depth >= 1 && options.depth <= depth_cap, "listops: depth must lie in 1 ... {}, got {}",
          depth_cap, options.depth);
  require(options.arguments >= 2 && options.arguments <= 1000,
          "listops: arguments must lie in 2 ... 1000, got {}", options.arguments);
  require(options.train >= 0 && options.dev >= 0 && options.test >= 0,
          "listops: counts must not be negative, got {}, {}, {}", options.train, options.dev, options.test);
}

[[noreturn]] void fail_scarce(const ListopsOptions& options, std::int64_t wanted, std::int64_t found,
                              std::int64_t candidates) {
  throw_error(
      ExitCode::failed,
      "listops: {} distinct trees of length {} ... {} (depth {}, {} arguments) are wanted, got {} in {} "
      "candidates; widen the lengths, raise the depth or ask for fewer",
      wanted, options.min_length, options.max_length, options.depth, options.arguments, found, candidates);
}

/// The next power of two: the published padded length (1999 -> 2048).
std::int64_t padded_length(int longest) {
  std::int64_t length = 1;
  while (length < longest) length *= 2;
  return length;
}

}  // namespace

ListopsSet generate_listops(const ListopsOptions& options) {
  check(options);
  const std::int64_t wanted = options.train + options.dev + options.test;
  const PhiloxKey key = stream_key(options.seed, "listops.tree");
  DistinctTrees trees;
  std::int64_t newest = -1;  // candidate of the newest tree
  std::vector<Drawn> round(static_cast<std::size_t>(chunks_per_round));
  for (std::int64_t first = 0; trees.count() < wanted; first += chunk * chunks_per_round) {
    if (first - newest > patience || first > patience + candidates_per_tree * wanted) {
      fail_scarce(options, wanted, trees.count(), first);
    }
    parallel_for(chunks_per_round, 1, [&](std::int64_t i) {
      round[static_cast<std::size_t>(i)] = draw_chunk(options, key, first + i * chunk);
    });
    for (const Drawn& drawn : round) {
      for (std::size_t i = 0; i < drawn.ends.size() && trees.count() < wanted; ++i) {
        if (trees.add(drawn.sequence(i), drawn.hashes[i], drawn.labels[i])) newest = drawn.candidates[i];
      }
    }
  }
  return trees.take(newest + 1);
}

data::RecordHeader listops_header(const ListopsOptions& options) {
  check(options);
  data::RecordHeader header;
  header.task = "listops";
  header.options = io::dump_json({{"min_length", options.min_length},
                                  {"max_length", options.max_length},
                                  {"depth", options.depth},
                                  {"arguments", options.arguments},
                                  {"train", options.train},
                                  {"dev", options.dev},
                                  {"test", options.test}});
  header.seed = options.seed;
  header.vocabulary = listops_vocabulary;
  header.classes = listops_classes;
  header.padded_length = padded_length(options.max_length);
  return header;
}

std::int64_t prepare_listops(const ListopsOptions& options, Preparation& preparation) {
  const ListopsSet set = generate_listops(options);
  std::int64_t begin = 0;
  const auto write = [&](std::string_view split, std::int64_t count) {
    const std::int64_t end = begin + count;
    for (std::int64_t i = std::exchange(begin, end); i < end && preparation.wants(split); ++i)
      preparation.writer(split).append(set.sequence(i), std::int32_t{set.labels[static_cast<std::size_t>(i)]});
  };
  write("train", options.train);
  write("dev", options.dev);
  write("test", options.test);
  preparation.complete();
  return set.candidates;
}

}  // namespace tern::tasks
