// Attention in blocks of sorted tokens: what Reformer and HyperAttention are made of. Tokens are hashed, sorted
// by their codes inside each sequence and head, cut into blocks, and attend inside blocks.
#pragma once

#include <cstdint>

#include "tern/random.h"
#include "tern/sequence_layout.h"
#include "tern/sorted_blocks.h"
#include "tern/tensor.h"

namespace tern {

struct RotationCodeOptions {
  int rounds = 1;
  int block = 64;   ///< tokens of a block; a sequence of at most one block has one bucket
  int buckets = 0;  ///< even; 0 means 2 * ceil(length / block), at most most_rotation_buckets
};

/// Bucket of each row in each round, argmax of [x R; -x R] with R [width, buckets / 2] of standard normals
/// rounded to bfloat16, drawn for each head and round (Andoni et al. 2015, "Practical and optimal LSH for
/// angular distance"): x [tokens, heads, width] -> [heads, rounds, tokens] int32. Not differentiable. Cost
/// tokens * heads * width * rounds * buckets / 2.
Tensor rotation_codes(const Tensor& x, const SequenceLayout& layout, const RotationCodeOptions& options,
                      const RandomStream& stream);

/// Tokens in the order of their codes, [heads, rounds, tokens] int32 each.
struct SortedTokens {
  Tensor order;    ///< order[h, r, offsets[s] + p] is the token at place p of sequence s, counted in the batch
  Tensor segment;  ///< of each token: a query sees a key where its segment exceeds the key's by 0 or 1
};
/// Sorts the tokens of each sequence by `codes` [heads, rounds, tokens] int32 in [0, 2^bits), bits at most 16;
/// equal codes keep the order of tokens. `gray`: codes are in Gray order, in which neighbours differ in one
/// bit.
SortedTokens sort_tokens(const Tensor& codes, int bits, const SequenceLayout& layout,
                         const BlockOptions& blocks, bool gray = false);

struct SortedAttentionOptions {
  double scale = 1;
  BlockOptions blocks{};       ///< as given to sort_tokens
  bool excludes_self = false;  ///< the logit of a token with itself falls by 1e5
  bool counts_once = false;    ///< a key seen in several rounds counts once; not for BlockReach::previous
  int samples = 0;             ///< further keys, drawn with replacement for a sequence and head
  RandomStream stream{};       ///< of the samples
};
/// Softmax over all keys that a query sees in any round: exp(scale q k) v sums over rounds and keys, divided by
/// the sum of weights; q, k, v [tokens, heads, width]. With `samples` (and one round) sequences longer than
/// blocks.whole add for each query and sampled key outside its block the weight length / samples *
/// exp(scale q k): an unbiased estimate of what the blocks leave out. Cost tokens * heads * width * (rounds *
/// keys in reach + samples), memory linear.
Tensor sorted_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                        const SortedTokens& queries, const SortedTokens& keys,
                        const SortedAttentionOptions& options);

}  // namespace tern
