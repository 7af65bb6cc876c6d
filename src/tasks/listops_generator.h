// ListOps: nested MIN, MAX, MED and SM over digits. Source of the rule: google-research/long-range-arena,
// lra_benchmarks/data/listops.py.
//
//   a node at depth d (the root has depth 1) is an operator with probability 1/4 if d < depth, else a digit
//   0-9; an operator has 2 ... arguments arguments, uniformly, each a node at depth d + 1, and is uniformly one
//   of four; length = tokens: operators, digits and one closing mark for each operator.
//
// A tree is kept if min_length <= length <= max_length and no earlier tree equals it. Tree i of the stream of
// candidates depends on (seed, i) alone, so the set is the same for any number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "tasks/prepared_data.h"

namespace tern::tasks {

/// Token ids; digit d is listops_digit + d, 0 is padding.
enum ListopsToken : std::uint8_t {
  listops_digit = 1,
  listops_min = 11,
  listops_max = 12,
  listops_med = 13,
  listops_sm = 14,
  listops_close = 15,
};
inline constexpr int listops_vocabulary = 16;
inline constexpr int listops_classes = 10;

/// The defaults are the published benchmark.
struct ListopsOptions {
  int min_length = 501;
  int max_length = 1999;
  int depth = 10;
  int arguments = 10;  ///< most arguments of one operator
  std::int64_t train = 96000, dev = 2000, test = 2000;
  std::uint64_t seed = 0;
};

/// Distinct trees in the order of their candidates.
struct ListopsSet {
  std::vector<std::uint8_t> tokens;
  std::vector<std::uint64_t> offsets{0};  ///< [count + 1]
  std::vector<std::uint8_t> labels;       ///< [count]
  std::int64_t candidates = 0;            ///< candidates looked at

  std::int64_t count() const { return static_cast<std::int64_t>(labels.size()); }
  std::span<const std::uint8_t> sequence(std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    return std::span(tokens).subspan(offsets[at], offsets[at + 1] - offsets[at]);
  }
};

/// train + dev + test distinct trees. Error(failed) for options that contradict themselves and when too few
/// distinct trees are found: no new one in 2^23 candidates, or more than 2^16 candidates for each tree asked
/// for.
ListopsSet generate_listops(const ListopsOptions& options);

/// Value of a token sequence, 0 ... 9, by a stack from right to left (shares no code with the generator).
/// MED is the integer part of the median, SM the sum modulo 10. Error(bad_data) naming the token if malformed.
int evaluate_listops(std::span<const std::uint8_t> tokens);

/// What the record files of these options say; the splits' names are left empty. Error(failed) for options that
/// contradict themselves.
data::RecordHeader listops_header(const ListopsOptions& options);

/// Writes the splits: the first trees are the training set, then dev, then test. Returns the number of
/// candidates looked at.
std::int64_t prepare_listops(const ListopsOptions& options, Preparation& preparation);

}  // namespace tern::tasks
