// How sorted tokens are cut into blocks, and what a block's queries see (tern/sorted_attention.h).
#pragma once

#include <cstdint>

namespace tern {

/// Hash buckets of a sequence in rotation_codes.
constexpr int most_rotation_buckets = 1024;

/// What the queries of a block see.
enum class BlockReach {
  own,           ///< the keys of their block
  previous,      ///< also those of the block before, which for the first is the last one of the round before
  previous_code  ///< keys of their block and the one before with their code; both sides must be one sort
};
struct BlockOptions {
  int size = 64;           ///< tokens of a block
  std::int64_t whole = 0;  ///< a sequence of at most so many tokens is one block
  BlockReach reach = BlockReach::own;
};

}  // namespace tern
