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

template <class T, class Code>
struct Projection {
  Sequences sequences;
  Heads<const T> x;  ///< of the heads in `directions`
  int hashes, bits;
  Directions directions;
  Code* codes;
  bool packed, pairs;  ///< rows may be read 16 bytes, or two elements, at a time
  bool is_gaussian;    ///< directions are exact in bfloat16

  __device__ Code* place(int head, int hash) const {
    return codes + (static_cast<std::int64_t>(head) * hashes + hash) * x.tokens;
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
  for (int hash = 0; hash < p.hashes; ++hash) {
    Code* to = p.place(tile.head, hash) + tile.range.begin;
    for (int i = tile.first + static_cast<int>(threadIdx.x); i < tile.range.length; i += stride) to[i] = 0;
  }
}

/// The same codes from products on tensor cores, for rows that may be read in pairs, of at most 128 columns.
template <class Code>
void project_by_products(Cuda& cuda, const Projection<bfloat16, Code>& projection);

}  // namespace tern::kernels
