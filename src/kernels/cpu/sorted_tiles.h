// Tiles of attention along a sort: rows are gathered by token into blocks of `sorted_tile` queries and keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/tiles.h"
#include "kernels/sorted_attention.h"

namespace tern::kernels {
namespace {

constexpr int sorted_tile = 64;
constexpr ChunkRule sorted_rule{.shortest = sorted_tile, .step = sorted_tile, .most = std::int64_t{1} << 30};

/// Tokens of one side of a tile and their segments in each round.
struct TileTokens {
  explicit TileTokens(Layout& layout, int rounds)
      : token(layout.take<std::int32_t>(sorted_tile)),
        segment(layout.take<std::int32_t>(rounds * sorted_tile)) {}
  std::int32_t* token;
  std::int32_t* segment;  ///< [rounds, sorted_tile]
};

template <class T, Isa isa>
struct SortedTile {
  SortedTile(Layout& layout, int width, int rounds)
      : stride(padded_width<T, isa>(width)),
        q(layout.take<T>(sorted_tile * stride)),
        dout(layout.take<T>(sorted_tile * stride)),
        k(layout.take<T>(sorted_tile * stride)),
        v(layout.take<T>(sorted_tile * stride)),
        k_columns(layout.take<T>(sorted_tile * width)),
        v_columns(layout.take<T>(sorted_tile * width)),
        sums(layout.take<T>(sorted_tile * stride)),
        value_sums(layout.take<T>(sorted_tile * stride)),
        scores(layout.take<T>(sorted_tile * sorted_tile)),
        slopes(layout.take<T>(sorted_tile * sorted_tile)),
        factors(layout.take<T>(sorted_tile)),
        queries(layout, rounds),
        keys(layout, rounds) {}
  int stride;
  T *q, *dout, *k, *v, *k_columns, *v_columns;  ///< rows, and rows as columns
  T *sums, *value_sums;
  T *scores, *slopes;  ///< [queries, keys]
  T* factors;          ///< of the weights of a query
  TileTokens queries, keys;
};

/// A round of a sequence and head; round options.rounds is that of the samples.
class SortedRound {
 public:
  SortedRound(const SortedOptions& options, const AttentionTask& task, std::int64_t batch_tokens, int round)
      : options_(options),
        task_(task),
        tokens_(static_cast<int>(task.end - task.begin)),
        list_(std::int64_t{task.head} * options.rounds * batch_tokens),
        batch_tokens_(batch_tokens),
        round_(round),
        query_round_(sort()),
        key_round_(sort()),
        wrapped_(options.rule.wrapped_segment(tokens_)) {}

  bool is_sampled() const { return round_ == options_.rounds; }
  int tokens() const { return tokens_; }
  int key_count() const { return is_sampled() ? options_.samples_of(tokens_) : tokens_; }

  PlaceRanges keys_of(int first, int last) const {
    if (is_sampled()) return {{0, 0}, {key_count(), 0}};
    return keys_in_reach(options_.rule, first, last, tokens_);
  }
  PlaceRanges queries_of(int first, int last) const {
    if (is_sampled()) return {{0, 0}, {tokens_, 0}};
    return queries_in_reach(options_.rule, first, last, tokens_);
  }

  /// From now on: range `range` of keys_of.
  void meet_keys(int range) {
    is_wrap_ = range == 1;
    key_round_ = is_wrap_ ? (round_ + options_.rounds - 1) % options_.rounds : sort();
  }
  /// From now on: range `range` of queries_of.
  void meet_queries(int range) {
    is_wrap_ = range == 1;
    query_round_ = is_wrap_ ? (round_ + 1) % options_.rounds : sort();
  }

  void load_queries(int first, int count, const TileTokens& to) const {
    const std::int32_t* order = options_.queries.order + list_place(query_round_) + task_.begin + first;
    std::copy(order, order + count, to.token);
    load_segments(options_.queries.segment, count, to);
  }
  void load_keys(int first, int count, const TileTokens& to) const {
    if (is_sampled()) {
      for (int i = 0; i < count; ++i)
        to.token[i] = static_cast<std::int32_t>(task_.begin) +
                      sampled_key(options_.stream, task_.sample, task_.head, first + i, tokens_);
    } else {
      const std::int32_t* order = options_.keys.order + list_place(key_round_) + task_.begin + first;
      std::copy(order, order + count, to.token);
    }
    load_segments(options_.keys.segment, count, to);
  }

  /// factors[c] = what query `row` multiplies the weight of key c with, 0 for keys that it does not see; takes
  /// the penalty off its own score.
  template <class T>
  void weigh_pairs(const TileTokens& queries, const TileTokens& keys, int row, int count, T* scores,
                   T* factors) const {
    const int own = queries.segment[query_round_ * sorted_tile + row];
    const std::int32_t* other = keys.segment + key_round_ * sorted_tile;
    if (is_wrap_) {
      for (int c = 0; c < count; ++c) factors[c] = own == 0 && other[c] == wrapped_ ? T{1} : T{0};
    } else if (is_sampled()) {
      const T weight = static_cast<T>(static_cast<double>(tokens_) / options_.samples);
      for (int c = 0; c < count; ++c) factors[c] = sees(own, other[c]) ? T{0} : weight;
    } else {
      for (int c = 0; c < count; ++c) factors[c] = sees(own, other[c]) ? T{1} : T{0};
      if (options_.counts_once) divide_by_rounds(queries, keys, row, count, factors);
    }
    if (!options_.excludes_self) return;
    const std::int32_t token = queries.token[row];
    for (int c = 0; c < count; ++c)
      scores[c] -= keys.token[c] == token ? static_cast<T>(self_penalty * log2_e) : T{0};
  }

 private:
  /// The round whose order counts: the samples' one meets queries in the order of the first.
  int sort() const { return is_sampled() ? 0 : round_; }
  std::int64_t list_place(int round) const { return list_ + round * batch_tokens_; }

  void load_segments(const std::int32_t* segment, int count, const TileTokens& to) const {
    for (int round = 0; round < options_.rounds; ++round) {
      const std::int32_t* from = segment + list_place(round);
      for (int i = 0; i < count; ++i) to.segment[round * sorted_tile + i] = from[to.token[i]];
    }
  }
  template <class T>
  void divide_by_rounds(const TileTokens& queries, const TileTokens& keys, int row, int count,
                        T* factors) const {
    int rounds[sorted_tile] = {};
    for (int r = 0; r < options_.rounds; ++r) {
      const int own = queries.segment[r * sorted_tile + row];
      const std::int32_t* other = keys.segment + r * sorted_tile;
      for (int c = 0; c < count; ++c) rounds[c] += sees(own, other[c]) ? 1 : 0;
    }
    for (int c = 0; c < count; ++c) factors[c] /= static_cast<T>(rounds[c] > 0 ? rounds[c] : 1);
  }

  const SortedOptions& options_;
  const AttentionTask& task_;
  int tokens_;
  std::int64_t list_, batch_tokens_;
  int round_, query_round_, key_round_, wrapped_;
  bool is_wrap_ = false;
};

/// to[r, c] = factor from[token r, c], with zeros up to padded_width columns and block_step rows.
template <class T, Isa isa>
void gather(const Heads<const T>& from, int head, const std::int32_t* token, int count, T factor, T* to) {
  const int columns = padded_width<T, isa>(from.width);
  for (int r = 0; r < round_up(count, block_step); ++r, to += columns) {
    const T* source = r < count ? from.row(token[r], head) : nullptr;
    const int width = r < count ? from.width : 0;
    for (int c = 0; c < width; ++c) to[c] = factor * source[c];
    for (int c = width; c < columns; ++c) to[c] = 0;
  }
}
/// to[c, r] = from[token r, c], rows `sorted_tile` apart, and zeros up to the next block_step.
template <class T>
void gather_columns(const Heads<const T>& from, int head, const std::int32_t* token, int count, T* to) {
  for (int r = 0; r < round_up(count, block_step); ++r) {
    const T* source = r < count ? from.row(token[r], head) : nullptr;
    for (int c = 0; c < from.width; ++c) to[c * sorted_tile + r] = r < count ? source[c] : T{0};
  }
}
/// to[token r, c] (+)= factor from[r, c].
template <class T, Isa isa, bool accumulate>
void scatter(const T* from, T factor, const std::int32_t* token, int count, int head, const Heads<T>& to) {
  const int columns = padded_width<T, isa>(to.width);
  for (int r = 0; r < count; ++r, from += columns) {
    T* target = to.row(token[r], head);
    for (int c = 0; c < to.width; ++c) target[c] = (accumulate ? target[c] : T{0}) + factor * from[c];
  }
}

}  // namespace
}  // namespace tern::kernels
