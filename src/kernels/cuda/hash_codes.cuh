// Projections of rows on random directions: what the kernels of hash_codes share.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {

/// Directions [sequence * heads + head][hash * bits + bit][c] of the heads first_head .. first_head + heads
/// - 1.
struct Directions {
  float* data;
  int heads, first_head, columns, width;
};

/// Fills `directions` for all sequences.
void draw_directions(Cuda& cuda, const Directions& directions, HashShape shape, const Sequences& sequences,
                     const RandomStream& stream);

/// Rows of one or two sides, queries and keys, which share the directions: the block's y says which.
template <class T, class Code>
struct Projection {
  Sequences sequences;
  Heads<const T> x[2];  ///< of the heads in `directions`
  Code* codes[2];
  int sides;
  HashShape shape;
  Directions directions;  ///< without data where the products draw them
  bool packed;            ///< rows may be read 16 bytes at a time

  __device__ Heads<const T> rows() const { return blockIdx.y == 0 ? x[0] : x[1]; }
  __device__ Code* place(int head, int hash) const {
    return (blockIdx.y == 0 ? codes[0] : codes[1]) +
           (static_cast<std::int64_t>(head) * shape.hashes + hash) * sequences.tokens;
  }
};

/// The block's (sequence, head) and its run of tokens.
struct Tile {
  SequenceRange range;
  int head, first;
};
template <class T, class Code>
__device__ Tile tile_of_block(const Projection<T, Code>& p, int tiles, int size) {
  const int sequences = static_cast<int>(p.sequences.count) + 1;
  const int tile = static_cast<int>(blockIdx.x % tiles), rest = static_cast<int>(blockIdx.x / tiles);
  return {sequence_range(p.sequences, rest % sequences), rest / sequences, tile * size};
}

/// Zeros for rows outside all sequences.
template <class T, class Code>
__device__ void clear_codes(const Projection<T, Code>& p, const Tile& tile, int stride) {
  for (int hash = 0; hash < p.shape.hashes; ++hash) {
    Code* to = p.place(tile.head, hash) + tile.range.begin;
    for (int i = tile.first + static_cast<int>(threadIdx.x); i < tile.range.length; i += stride) to[i] = 0;
  }
}

/// The same codes from products on tensor cores, for rows that may be read in pairs, of at most 128 columns.
template <class Code>
void project_by_products(Cuda& cuda, const Projection<bfloat16, Code>& projection, const RandomStream& stream);

}  // namespace tern::kernels
