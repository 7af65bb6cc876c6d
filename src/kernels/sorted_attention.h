// Attention in blocks of sorted tokens over ragged batches (tern/sorted_attention.h): hashing by random
// rotations, the sort, and the attention, in tiles. Results do not depend on the number of threads. Rows
// outside all sequences, which only CUDA meets, get zeros.
#pragma once

#include "kernels/attention.h"
#include "tern/sorted_blocks.h"

namespace tern::kernels {

/// How sequences are cut into blocks.
struct BlockRule {
  int size;
  std::int64_t whole;
  BlockReach reach;

  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int length(int tokens) const {
    return tokens <= whole ? tokens : size;
  }
  /// Of the token with code `code` at place `place` of its sequence. Along the sort both numbers rise, so 2 *
  /// code + block rises by 1 exactly where the block changes and the code does not.
  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int segment(int code, int place, int tokens) const {
    const int block = place / length(tokens);
    if (reach == BlockReach::own) return 2 * block;
    return reach == BlockReach::previous_code ? 2 * code + block : block;
  }
  /// Of the last block of a sequence, where the first block sees it; 0 where it does not.
  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int wrapped_segment(int tokens) const {
    return reach == BlockReach::previous ? (tokens - 1) / length(tokens) : 0;
  }
};
/// Whether a query of segment `query` sees a key of segment `key` of the same round.
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr bool sees(int query, int key) {
  return query == key || query == key + 1;
}

/// Places of one round, and of a neighbouring round in which the first block meets the last one.
struct PlaceRanges {
  int first[2], last[2];
};
/// Places of the keys that queries at places `first` .. `last` - 1 of a round may see in it and in the round
/// before.
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr PlaceRanges keys_in_reach(const BlockRule& rule, int first,
                                                                            int last, int tokens) {
  const int length = rule.length(tokens), block = first / length,
            begin = rule.reach == BlockReach::own || block == 0 ? block * length : (block - 1) * length;
  const int blocks_end = ((last - 1) / length + 1) * length, wrapped = rule.wrapped_segment(tokens);
  return {{begin, wrapped * length},
          {blocks_end < tokens ? blocks_end : tokens, wrapped > 0 && block == 0 ? tokens : 0}};
}
/// Places of the queries that may see keys at places `first` .. `last` - 1 of a round in it and in the round
/// behind.
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr PlaceRanges queries_in_reach(const BlockRule& rule, int first,
                                                                               int last, int tokens) {
  const int length = rule.length(tokens), wrapped = rule.wrapped_segment(tokens);
  const int blocks = (last - 1) / length + (rule.reach == BlockReach::own ? 1 : 2),
            end = blocks * length < tokens ? blocks * length : tokens;
  return {{first / length * length, 0}, {end, wrapped > 0 && last > wrapped * length ? length : 0}};
}

/// Index, inside its sequence, of sampled key `slot`: word slot % 4 of block (head, slot / 4) of the sample.
[[gnu::always_inline]] TERN_HOST_DEVICE inline int sampled_key(const RandomStream& stream, std::int64_t sample,
                                                               int head, int slot, int tokens) {
  const PhiloxWords words =
      stream.words(sample, static_cast<std::uint64_t>(head) << 32 | static_cast<std::uint64_t>(slot / 4));
  const int place = slot % 4;
  const std::uint32_t word =
      place < 2 ? (place == 0 ? words.word[0] : words.word[1]) : (place == 2 ? words.word[2] : words.word[3]);
  return static_cast<int>(std::uint64_t{word} * static_cast<std::uint64_t>(tokens) >> 32);
}

struct RotationShape {
  int rounds, block, buckets;
  /// Columns of R for a sequence; 0: one bucket.
  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int columns(std::int64_t tokens) const {
    if (tokens <= block) return 0;
    if (buckets > 0) return buckets / 2;
    const std::int64_t blocks = (tokens + block - 1) / block;
    return static_cast<int>(blocks < most_rotation_buckets / 2 ? blocks : most_rotation_buckets / 2);
  }
};
/// First block of the normals of a head and round.
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr std::uint64_t rotation_block(int head, int round) {
  return static_cast<std::uint64_t>(head) << 40 | static_cast<std::uint64_t>(round) << 32;
}

/// codes[(head * rounds + round) * tokens + token]. The normal of (head, round, column, c) is number column *
/// width + c of sample 0 from block rotation_block(head, round) on, rounded to bfloat16.
template <class T, Isa isa>
void rotation_codes(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, RotationShape shape,
                    const RandomStream& stream, std::int32_t* codes);
template <class T>
void rotation_codes(Cuda&, const Sequences& sequences, Heads<const T> x, RotationShape shape,
                    const RandomStream& stream, std::int32_t* codes);

/// `lists` sorts of the batch, [lists, tokens] each.
struct TokenSort {
  std::int64_t lists;
  int bits;
  bool gray;
  BlockRule rule;
  const std::int32_t* codes;
  std::int32_t *order, *segment;
  /// Place of a code in the Gray order: the prefix parities of its bits from the top.
  [[gnu::always_inline]] TERN_HOST_DEVICE int rank(int code) const {
    if (!gray) return code;
    for (int step = 1; step < 16; step *= 2) code ^= code >> step;
    return code;
  }
};
template <Isa isa>
void sort_tokens(Cpu<isa>&, const Sequences& sequences, const TokenSort& sort);
void sort_tokens(Cuda&, const Sequences& sequences, const TokenSort& sort);

/// One side of the sort, [heads, rounds, tokens] each.
struct SortedSide {
  const std::int32_t *order, *segment;
};
struct SortedOptions {
  SortedSide queries, keys;
  int rounds;
  BlockRule rule;
  double scale;
  bool excludes_self, counts_once;
  int samples;
  RandomStream stream;
  /// Keys beside the blocks' ones that a sequence's queries see.
  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int samples_of(int tokens) const {
    return tokens <= rule.whole ? 0 : samples;
  }
};
constexpr double self_penalty = 1e5;
constexpr int most_rounds = 16, most_samples = 8192;

/// What the backward pass needs of the weights of each query: that of key j is exp2(logit_j - top) * factor_j *
/// inverse, logits in base 2. Kept apart, because the sum of both loses digits beside a penalty.
template <class A>
struct WeightSums {
  A *top, *inverse;  ///< [heads, tokens]
};

/// Writes `out` and `sums`.
template <class T, Isa isa>
void sorted_attention_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SortedOptions&,
                              Heads<T> out, const WeightSums<T>& sums);
template <class T>
void sorted_attention_forward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SortedOptions&,
                              Heads<T> out, const WeightSums<Accumulate<T>>& sums);
/// Gradients at `dout` from what the forward pass wrote. Overwrites dq, dk and dv.
template <class T, Isa isa>
void sorted_attention_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SortedOptions&,
                               Heads<const T> out, const WeightSums<const T>& sums, Heads<const T> dout,
                               const AttentionGradients<T>&);
template <class T>
void sorted_attention_backward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SortedOptions&,
                               Heads<const T> out, const WeightSums<const Accumulate<T>>& sums,
                               Heads<const T> dout, const AttentionGradients<T>&);

}  // namespace tern::kernels
