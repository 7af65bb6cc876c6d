// An AttentionPattern seen by kernels: sequences are cut into tiles of at most 64 tokens, none of which crosses
// the border of a block, and each tile asks for the next one that it is paired with. Nothing is stored, so the
// cost follows the visible tiles. One implementation for host and device.
#pragma once

#include "tern/attention_pattern.h"

namespace tern::kernels {
namespace {

constexpr int tile_tokens = 64;

TERN_HOST_DEVICE constexpr int lesser(int a, int b) { return a < b ? a : b; }
TERN_HOST_DEVICE constexpr int greater(int a, int b) { return a > b ? a : b; }

/// A random permutation of 0 .. count - 1 that can be evaluated anywhere in both directions: a Feistel network
/// over the next power of four, followed until it returns to the range.
class RandomPermutation {
 public:
  TERN_HOST_DEVICE RandomPermutation(PhiloxKey key, int number, int head, int count)
      : keys_(philox(
            {{static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(head), unsigned_of(count), 0}},
            key)),
        count_(unsigned_of(count)) {
    while (half_ < 16 && (1u << (2 * half_)) < count_) ++half_;
  }
  TERN_HOST_DEVICE int image(int x) const {
    std::uint32_t value = unsigned_of(x);
    do {
      for (int round = 0; round < rounds; ++round) {
        const std::uint32_t low = value & mask();
        value = low << half_ | ((value >> half_) ^ mixed(low, round));
      }
    } while (value >= count_);
    return static_cast<int>(value);
  }
  TERN_HOST_DEVICE int origin(int y) const {
    std::uint32_t value = unsigned_of(y);
    do {
      for (int round = rounds - 1; round >= 0; --round) {
        const std::uint32_t high = value >> half_;
        value = ((value & mask()) ^ mixed(high, round)) << half_ | high;
      }
    } while (value >= count_);
    return static_cast<int>(value);
  }

 private:
  static constexpr int rounds = 4;
  TERN_HOST_DEVICE static constexpr std::uint32_t unsigned_of(int x) { return static_cast<std::uint32_t>(x); }
  TERN_HOST_DEVICE std::uint32_t mask() const { return (1u << half_) - 1; }
  TERN_HOST_DEVICE std::uint32_t mixed(std::uint32_t half, int round) const {
    std::uint32_t x = (half + keys_.word[round]) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return (x ^ x >> 16) & mask();
  }

  PhiloxWords keys_;
  std::uint32_t count_;
  int half_ = 1;
};

/// How sequences are cut into tiles.
struct TileCut {
  int block;  ///< tokens
  TERN_HOST_DEVICE int block_tiles() const { return block / tile_tokens + (block % tile_tokens > 0); }
  TERN_HOST_DEVICE int count(int length) const {
    return length / block * block_tiles() + (length % block + tile_tokens - 1) / tile_tokens;
  }
  TERN_HOST_DEVICE int block_of(int tile) const { return tile / block_tiles(); }
  TERN_HOST_DEVICE int tile_of(int token) const {
    return token / block * block_tiles() + token % block / tile_tokens;
  }
  /// The tile's first token.
  TERN_HOST_DEVICE int first(int tile) const {
    return block_of(tile) * block + tile % block_tiles() * tile_tokens;
  }
  /// The tile's tokens in a sequence of `length`.
  TERN_HOST_DEVICE int tokens(int tile, int length) const {
    const int left_in_block = block - tile % block_tiles() * tile_tokens;
    return lesser(lesser(tile_tokens, left_in_block), length - first(tile));
  }
};

/// What a tile of rows and a tile of columns have in common: all pairs of the first `rows` and `columns`, or
/// where `is_partial` those of them that TiledPattern::sees().
struct TilePair {
  int rows, columns;
  bool is_partial;
};

/// Whose partners are asked for.
enum class RowSide { queries, keys };

/// The pattern in one sequence and head; rows are tokens of `side`, columns those of the other side.
class TiledPattern {
 public:
  TERN_HOST_DEVICE TiledPattern(const AttentionPattern& pattern, RowSide side, int length, int head)
      : cut{pattern.block},
        pattern_(pattern),
        side_(side),
        length_(length),
        head_(head),
        blocks_(length / pattern.block + (length % pattern.block > 0)),
        tiles_(cut.count(length)) {}

  TERN_HOST_DEVICE int tiles() const { return tiles_; }
  TERN_HOST_DEVICE int first(int tile) const { return cut.first(tile); }
  TERN_HOST_DEVICE int tokens(int tile) const { return cut.tokens(tile, length_); }

  /// The first tile of columns from `column` on that the tile `row` may be paired with; tiles() if none is.
  TERN_HOST_DEVICE int next(int row, int column) const {
    if (column >= tiles_ || first(row) < pattern_.global || first(column) < pattern_.global)
      return lesser(column, tiles_);
    int found = tiles_;
    if (pattern_.window >= 0) {
      const int reach = lesser(pattern_.window, length_), begin = first(row), end = begin + tokens(row);
      const int low = cut.tile_of(greater(begin - reach, 0)),
                high = cut.tile_of(reach < length_ - end ? end - 1 + reach : length_ - 1);
      if (column <= high) found = greater(low, column);
    }
    const int start = cut.block_of(column), block = next_block(cut.block_of(row), start);
    if (block < blocks_) found = lesser(found, block == start ? column : block * cut.block_tiles());
    return found;
  }

  /// `position` of the sequence's tokens.
  TERN_HOST_DEVICE TilePair pair(int row, int column, const std::int32_t* position) const {
    const int r = first(row), c = first(column), rows = tokens(row), columns = tokens(column);
    const int block = cut.block_of(column), global = pattern_.global;
    const TilePair all{rows, columns, false};
    if (r + rows <= global || c + columns <= global || next_block(cut.block_of(row), block) == block)
      return all;
    // positions rise, so they lie no closer than places
    const int gap = greater(c - (r + rows - 1), r - (c + columns - 1));
    if (pattern_.window >= 0 && gap <= pattern_.window) {
      const int r_low = position[r], r_high = position[r + rows - 1], c_low = position[c],
                c_high = position[c + columns - 1];
      if (greater(r_high, c_high) - lesser(r_low, c_low) <= pattern_.window) return all;
      if (greater(c_low - r_high, r_low - c_high) <= pattern_.window) return {rows, columns, true};
    }
    const int global_rows = greater(global - r, 0), global_columns = greater(global - c, 0);
    if (global_rows > 0 && global_columns > 0) return {rows, columns, true};
    const int some_rows = lesser(whole_steps(global_rows), rows),
              some_columns = lesser(whole_steps(global_columns), columns);
    if (global_rows > 0) return {some_rows, columns, some_rows > global_rows};
    return {global_columns > 0 ? rows : 0, some_columns, some_columns > global_columns};
  }

  /// Whether two tokens of a partial pair of tiles see each other; without branches, so that loops vectorize.
  TERN_HOST_DEVICE bool sees(int row, int column, int row_position, int column_position) const {
    const int distance = greater(row_position - column_position, column_position - row_position);
    return static_cast<bool>((lesser(row, column) < pattern_.global) | (distance <= pattern_.window));
  }

  TileCut cut;

 private:
  /// Products are made of 16 rows.
  TERN_HOST_DEVICE static constexpr int whole_steps(int rows) { return (rows + 15) / 16 * 16; }

  /// The first block of columns from `column` on that the whole block `row` sees.
  TERN_HOST_DEVICE int next_block(int row, int column) const {
    int found = next_local(row, column);
    const auto offer = [&](int block) {
      if (block >= column && block < found) found = block;
    };
    if (pattern_.butterfly) {
      offer(row);
      for (std::int64_t digit = 1; digit < blocks_; digit *= 2) offer(row ^ static_cast<int>(digit));
    }
    for (int i = 0; i < pattern_.random_blocks; ++i) {
      const RandomPermutation permutation(pattern_.random_key, i, head_, blocks_);
      offer(side_ == RowSide::queries ? permutation.image(row) : permutation.origin(row));
    }
    return found;
  }

  TERN_HOST_DEVICE int next_local(int row, int column) const {
    const int from = side_ == RowSide::queries ? pattern_.from : -pattern_.to,
              to = side_ == RowSide::queries ? pattern_.to : -pattern_.from;
    if (from > to) return blocks_;
    const std::int64_t low = std::int64_t{row} + from, high = std::int64_t{row} + to;
    if (column > high || low >= blocks_) return blocks_;
    return low > column ? static_cast<int>(low) : column;
  }

  AttentionPattern pattern_;
  RowSide side_;
  int length_, head_, blocks_, tiles_;
};

}  // namespace
}  // namespace tern::kernels
