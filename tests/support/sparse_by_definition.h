// Attention over the pairs of an AttentionPattern by its definition, in double, pair by pair.
#pragma once

#include <bit>
#include <cstdlib>
#include <limits>

#include "kernels/attention_pattern.h"
#include "support/array.h"
#include "tern/ops.h"

namespace tern::test {

/// Two tokens of one sequence, counted from its first one, and their original positions.
struct TokenPair {
  int query, key, query_position, key_position;
};

/// Whether a query sees a key in a sequence of `length` tokens.
using Visibility = std::function<bool(int length, int head, const TokenPair& pair)>;

inline bool sees(const AttentionPattern& pattern, int length, int head, const TokenPair& pair) {
  const int blocks = (length + pattern.block - 1) / pattern.block, row = pair.query / pattern.block,
            column = pair.key / pattern.block;
  if (column - row >= pattern.from && column - row <= pattern.to) return true;
  if (pattern.window >= 0 && std::abs(pair.query_position - pair.key_position) <= pattern.window) return true;
  if (pair.query < pattern.global || pair.key < pattern.global) return true;
  if (pattern.butterfly && (row == column || std::popcount(static_cast<unsigned>(row ^ column)) == 1))
    return true;
  for (int i = 0; i < pattern.random_blocks; ++i)
    if (kernels::RandomPermutation(pattern.random_key, i, head, blocks).image(row) == column) return true;
  return false;
}

/// {softmax(scale q k^T) v, log sums} over the visible pairs.
inline std::vector<Array> sparse_by_definition(const std::vector<Array>& qkv, const SequenceLayout& layout,
                                               const Visibility& is_visible, double scale) {
  const Array &q = qkv.at(0), &k = qkv.at(1), &v = qkv.at(2);
  const int heads = static_cast<int>(q.size(1));
  const std::int64_t width = q.size(2);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  const auto position = layout.position.to_vector<std::int32_t>();
  Array y(v.shape), log_sums({q.size(0), heads});
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (int i = offsets[s]; i < offsets[s + 1]; ++i)
      for (int h = 0; h < heads; ++h) {
        std::vector<double> scores;
        double largest = -std::numeric_limits<double>::infinity(), total = 0;
        for (int j = offsets[s]; j < offsets[s + 1]; ++j) {
          double product = 0;
          for (std::int64_t c = 0; c < width; ++c)
            product += q[(i * heads + h) * width + c] * k[(j * heads + h) * width + c];
          const TokenPair pair{i - offsets[s], j - offsets[s], position[static_cast<std::size_t>(i)],
                               position[static_cast<std::size_t>(j)]};
          double score = scale * product;
          if (!is_visible(offsets[s + 1] - offsets[s], h, pair))
            score = -std::numeric_limits<double>::infinity();
          scores.push_back(score);
          largest = std::max(largest, score);
        }
        for (const double score : scores)
          if (!std::isinf(score)) total += std::exp(score - largest);
        log_sums[i * heads + h] = largest + std::log(total);
        for (int j = offsets[s]; j < offsets[s + 1]; ++j) {
          const double score = scores[static_cast<std::size_t>(j - offsets[s])];
          if (std::isinf(score)) continue;
          for (std::int64_t c = 0; c < width; ++c)
            y[(i * heads + h) * width + c] +=
                std::exp(score - largest) / total * v[(j * heads + h) * width + c];
        }
      }
  return {y, log_sums};
}
inline std::vector<Array> sparse_by_definition(const std::vector<Array>& qkv, const SequenceLayout& layout,
                                               const AttentionPattern& pattern, double scale) {
  const auto is_visible = [&](int length, int head, const TokenPair& pair) {
    return sees(pattern, length, head, pair);
  };
  return sparse_by_definition(qkv, layout, Visibility(is_visible), scale);
}

}  // namespace tern::test
