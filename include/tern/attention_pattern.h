// Which keys a query sees in sparse_attention: a rule that kernels evaluate, so that no list of pairs exists.
#pragma once

#include <cstdint>

#include "tern/random.h"

namespace tern {

/// The union of the parts below; with none of them no token sees any. Tokens and blocks are counted from the
/// first token of their sequence, whose last block may be shorter; absent positions count in `window` alone.
struct AttentionPattern {
  int block = 64;  ///< tokens of a block; multiples of 64 fill the kernels' tiles

  /// Block b sees blocks b + `from` .. b + `to`; none where `from` > `to`.
  int from = 0, to = -1;

  /// Tokens see each other whose original positions are at most `window` apart; none where it is negative.
  int window = -1;

  /// The first `global` tokens see all and are seen by all.
  int global = 0;

  /// Block b sees itself and the blocks whose number differs from b in one binary digit.
  bool butterfly = false;

  /// Block b sees blocks p(b) for `random_blocks` random permutations p of the sequence's blocks, so that it is
  /// seen by as many. A permutation follows from the key, its number, the head and the number of blocks alone.
  int random_blocks = 0;
  PhiloxKey random_key{};
};

}  // namespace tern
