// Tiles of attention along a sort: which tokens a block owns and meets, which of them see each other, and what
// its kernels read and write.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_simt_tiles.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/sorted_attention.h"

namespace tern::kernels {
namespace {

constexpr double log2_e = 1.44269504088896340736;
constexpr int sample_queries = 2048;  ///< of one block that differentiates sampled keys
/// Segments of places that do not exist: no key is seen in one, and no query of the other sees any.
constexpr int no_key = 1 << 30, no_query = -(1 << 30);

/// One round over the batch; round options.rounds is that of the samples.
template <class T>
struct SortedPass {
  Sequences sequences;
  AttentionInputs<T> in;
  SortedOptions options;
  int round;
  int chunks;   ///< of the columns that a block adds up in the width
  bool packed;  ///< rows may be read 16 bytes at a time

  __device__ bool is_sampled() const { return round == options.rounds; }
  __device__ int sort() const { return is_sampled() ? 0 : round; }
};

/// Tokens of one side of a tile, and their segments in each round: [rounds][size].
struct TileTokens {
  int *token, *segment;
  int size, count;
  __device__ TileTokens(int* memory, int tile_size)
      : token(memory), segment(memory + tile_size), size(tile_size), count(0) {}
  static constexpr int ints(int size, int rounds) { return size * (rounds + 1); }
};

/// A sequence and head in one round.
template <class T>
class SortedRound {
 public:
  __device__ SortedRound(const SortedPass<T>& pass, const SequencePart& part, int head)
      : pass_(pass),
        begin_(part.begin),
        tokens_(part.length),
        head_(head),
        sample_(pass.sequences.sample[part.sequence]),
        list_(static_cast<std::int64_t>(head) * pass.options.rounds * pass.sequences.tokens),
        query_round_(pass.sort()),
        key_round_(pass.sort()),
        wrapped_(pass.options.rule.wrapped_segment(part.length)) {}

  /// From now on: range `range` of keys_of.
  __device__ void meet_keys(int range) {
    is_wrap_ = range == 1;
    key_round_ = is_wrap_ ? (pass_.round + pass_.options.rounds - 1) % pass_.options.rounds : pass_.sort();
  }
  /// From now on: range `range` of queries_of.
  __device__ void meet_queries(int range) {
    is_wrap_ = range == 1;
    query_round_ = is_wrap_ ? (pass_.round + 1) % pass_.options.rounds : pass_.sort();
  }

  __device__ int samples() const { return pass_.options.samples_of(tokens_); }
  __device__ PlaceRanges keys_of(int first, int last) const {
    if (pass_.is_sampled()) return {{0, 0}, {samples(), 0}};
    return keys_in_reach(pass_.options.rule, first, last, tokens_);
  }
  __device__ PlaceRanges queries_of(int first, int last) const {
    return queries_in_reach(pass_.options.rule, first, last, tokens_);
  }
  __device__ void load_queries(int first, int last, TileTokens& to) const {
    load(pass_.options.queries, first, last, no_query, to, [&](int place) { return token_at<false>(place); });
  }
  __device__ void load_keys(int first, int last, TileTokens& to) const {
    load(pass_.options.keys, first, last, no_key, to, [&](int place) { return token_at<true>(place); });
  }
  /// Token of a key's or a query's place in the range that is met.
  template <bool is_key>
  __device__ __forceinline__ int token_at(int place) const {
    if constexpr (is_key) {
      return pass_.is_sampled() ? begin_ + sampled_key(pass_.options.stream, sample_, head_, place, tokens_)
                                : sorted(pass_.options.keys, key_round_, place);
    } else {
      return sorted(pass_.options.queries, query_round_, place);
    }
  }
  template <bool is_key>
  __device__ __forceinline__ const std::int32_t* segment_of(int token, int round) const {
    const SortedSide& side = is_key ? pass_.options.keys : pass_.options.queries;
    return side.segment + list_ + round * pass_.sequences.tokens + token;
  }

  /// What the weight of a pair of the tile is multiplied with; 0: the query does not see the key.
  template <class A>
  __device__ __forceinline__ A factor(const TileTokens& queries, int query, const TileTokens& keys,
                                      int key) const {
    const int times = times_seen(queries, query, keys, key);
    if (times == 0) return 0;
    return pass_.is_sampled() ? sample_factor<A>() : A{1} / static_cast<A>(times);
  }
  /// Logit in base 2.
  template <class A>
  __device__ __forceinline__ A logit(const TileTokens& queries, int query, const TileTokens& keys, int key,
                                     A product) const {
    const A scaled = product * static_cast<A>(pass_.options.scale * log2_e);
    return pass_.options.excludes_self && queries.token[query] == keys.token[key]
               ? scaled - static_cast<A>(self_penalty * log2_e)
               : scaled;
  }
  template <class A>
  __device__ __forceinline__ A sample_factor() const {
    return static_cast<A>(tokens_) / static_cast<A>(samples());
  }

  __device__ __forceinline__ bool is_sampled() const { return pass_.is_sampled(); }
  /// Whether the queries are those of the first block and the keys those of the last one.
  __device__ __forceinline__ bool is_wrap() const { return is_wrap_; }
  /// Whether a pair's weight is divided by the number of rounds in which the query sees the key.
  __device__ __forceinline__ bool counts_rounds() const { return pass_.options.counts_once && !is_wrap_; }
  __device__ __forceinline__ bool excludes_self() const { return pass_.options.excludes_self; }
  __device__ __forceinline__ float scale() const { return static_cast<float>(pass_.options.scale * log2_e); }
  __device__ __forceinline__ int rounds() const { return pass_.options.rounds; }
  __device__ __forceinline__ int query_round() const { return query_round_; }
  __device__ __forceinline__ int key_round() const { return key_round_; }
  __device__ __forceinline__ int wrapped() const { return wrapped_; }

 private:
  /// 0: the query does not see the key in this round; else by how many its weight is divided.
  __device__ __forceinline__ int times_seen(const TileTokens& queries, int query, const TileTokens& keys,
                                            int key) const {
    if (query >= queries.count || key >= keys.count) return 0;
    if (is_wrap_)
      return queries.segment[query_round_ * queries.size + query] == 0 &&
                     keys.segment[key_round_ * keys.size + key] == wrapped_
                 ? 1
                 : 0;
    const bool is_seen = sees_in(queries, query, keys, key, pass_.sort());
    if (is_seen == pass_.is_sampled()) return 0;
    if (pass_.is_sampled() || !pass_.options.counts_once) return 1;
    int rounds = 0;
    for (int r = 0; r < pass_.options.rounds; ++r) rounds += sees_in(queries, query, keys, key, r) ? 1 : 0;
    return rounds;
  }
  __device__ int sorted(const SortedSide& side, int round, int place) const {
    return side.order[list_ + round * pass_.sequences.tokens + begin_ + place];
  }
  __device__ bool sees_in(const TileTokens& queries, int query, const TileTokens& keys, int key,
                          int round) const {
    return sees(queries.segment[round * queries.size + query], keys.segment[round * keys.size + key]);
  }
  /// All threads take part; the caller synchronizes before and after.
  template <class TokenAt>
  __device__ void load(const SortedSide& side, int first, int last, int nowhere, TileTokens& to,
                       TokenAt token_at) const {
    to.count = last - first < to.size ? last - first : to.size;
    for (int i = static_cast<int>(threadIdx.x); i < to.size; i += static_cast<int>(blockDim.x)) {
      const int token = i < to.count ? token_at(first + i) : -1;
      to.token[i] = token;
      for (int r = 0; r < pass_.options.rounds; ++r)
        to.segment[r * to.size + i] =
            token < 0 ? nowhere : side.segment[list_ + r * pass_.sequences.tokens + token];
    }
  }

  const SortedPass<T>& pass_;
  int begin_, tokens_, head_;
  std::int64_t sample_, list_;
  int query_round_, key_round_, wrapped_;
  bool is_wrap_ = false;
};

template <class A>
struct SortedState {
  const A *top, *total;    ///< [heads, tokens] of the rounds before
  A *new_top, *new_total;  ///< a block for each chunk of the width reads the old ones
  A* sums;                 ///< [tokens, heads, width]
};

template <class T>
struct SortedBackward {
  SortedPass<T> pass;
  Heads<const T> dout;
  WeightSums<const Accumulate<T>> sums;
  const Accumulate<T>* dots;                            ///< [heads, tokens] sum_c dout out
  Accumulate<T>*dq, *dk, *dv;                           ///< [tokens, heads, width]
  Accumulate<T>*slot_dk = nullptr, *slot_dv = nullptr;  ///< [pieces, heads, samples, width]
};

/// What a query brings to its pairs, [3][tile]; zeros behind the last query.
template <class A>
struct QueryValues {
  A *top, *inverse, *dot;
  __device__ QueryValues(A* memory, int size) : top(memory), inverse(memory + size), dot(memory + 2 * size) {}
  template <class T>
  __device__ void load(const SortedBackward<T>& in, const TileTokens& queries, int head) {
    for (int i = static_cast<int>(threadIdx.x); i < queries.size; i += static_cast<int>(blockDim.x)) {
      const bool exists = i < queries.count;
      const std::int64_t place =
          static_cast<std::int64_t>(head) * in.pass.sequences.tokens + (exists ? queries.token[i] : 0);
      top[i] = exists ? in.sums.top[place] : A{0};
      inverse[i] = exists ? in.sums.inverse[place] : A{0};
      dot[i] = exists ? in.dots[place] : A{0};
    }
  }
};

/// A block's tile: the resident rows, the places that stream past them, and the columns that it adds up.
struct SortedPlace {
  int head, column, first, last;  ///< resident places: of keys, queries or samples
  PlaceRanges streamed;
  std::int64_t slots = 0;  ///< where the samples' shares go, in rows
};

}  // namespace
}  // namespace tern::kernels
