// Sums of outer products on tensor cores: a block sums one chunk of a sequence for one head and a tile of the
// matrix, whose rows may be mapped on their way to the products.
#pragma once

#include "kernels/cuda/elu.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/sequence_product_tiles.cuh"
#include "kernels/sequence_products.h"

namespace tern::kernels {
namespace {

constexpr int least_chunk = 512, most_chunks = 64;
constexpr int outer_threads = 128, stage_tokens = 32, stages = 4;

/// How sequences are cut, by the longest of the batch, and where sums go: to the results where one chunk is
/// enough.
template <class A>
struct Chunks {
  int length, count;
  A *matrices, *totals;
};

template <class A>
Chunks<A> chunks_of(const Sequences& sequences, A* matrices, A* totals) {
  const auto longest = static_cast<int>(sequences.longest);
  const int even = ((longest + most_chunks - 1) / most_chunks + stage_tokens - 1) / stage_tokens * stage_tokens;
  const int length = std::max(least_chunk, even);
  return {length, std::max(1, (longest + length - 1) / length), matrices, totals};
}

/// The tokens of a block, and its place among the partial sums.
struct ChunkRange {
  std::int64_t first, place;
  int count, head;
};
template <class A>
__device__ __forceinline__ ChunkRange chunk_range(const Sequences& sequences, const Chunks<A>& chunks,
                                                  int heads) {
  const int head = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x) % chunks.count;
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / chunks.count);
  const int rest = range.length - part * chunks.length;
  return {std::int64_t{range.begin} + part * chunks.length, std::int64_t{blockIdx.x} * heads + head,
          rest < chunks.length ? rest : chunks.length, head};
}

/// The two weights of a fragment's column 0: tokens 2 t and 2 t + 1 from `token` on.
__device__ __forceinline__ std::uint32_t weight_pair(const OuterSums<bfloat16>& in, const ChunkRange& range,
                                                     int token) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  if (lane / 4 != 0) return 0;
  if (in.weights == nullptr) return pack_pair(1.0f, 1.0f);
  const auto weight = [&](int t) {
    return t < range.count ? in.weights[(range.first + t) * in.a.heads + range.head] : 0.0f;
  };
  return pack_pair(weight(token + 2 * lane), weight(token + 2 * lane + 1));
}

/// Sums whose rows a are mapped by phi = elu + 1, token t's times factors[t, h] (null: ones).
struct SumTask {
  OuterSums<bfloat16> sums;
  const float* factors = nullptr;
};
/// Maps a fragment of a: tokens `token` + 2 t, + 1 in a[0], a[1] and eight further in a[2], a[3].
__device__ __forceinline__ void map_fragment(const SumTask& task, const ChunkRange& range, int token,
                                             std::uint32_t (&a)[4]) {
  float factor[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int t = token + static_cast<int>(threadIdx.x) % 4 * 2 + i / 2 * 8 + i % 2;
    factor[i] = t >= range.count          ? 0.0f
                : task.factors == nullptr ? 1.0f
                                          : task.factors[(range.first + t) * task.sums.a.heads + range.head];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    a[i] = pack_pair(factor[i / 2 * 2] * elu_plus_one(first_of(a[i])),
                     factor[i / 2 * 2 + 1] * elu_plus_one(second_of(a[i])));
}

/// Block (x, y, z): chunk x, head y, tile z of 64 rows and 64 columns; a warp takes 16 rows.
template <bool is_mapped>
__global__ void __launch_bounds__(outer_threads)
    sum_tiles(Sequences sequences, SumTask task, Chunks<float> chunks) {
  const OuterSums<bfloat16>& in = task.sums;
  __shared__ __align__(128) bfloat16 tiles[stages][2][stage_tokens * tile_stride];
  const ChunkRange range = chunk_range(sequences, chunks, in.a.heads);
  if (range.count <= 0 && chunks.count > 1) return;
  const int column_tiles = (in.b.width + product_tile - 1) / product_tile;
  const int tile_row = static_cast<int>(blockIdx.z) / column_tiles * product_tile,
            tile_column = static_cast<int>(blockIdx.z) % column_tiles * product_tile;
  const int warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16;
  const int steps = (range.count + stage_tokens - 1) / stage_tokens;
  const auto copy_stage = [&](int step) {
    const int token = step * stage_tokens;
    if (step < steps) {
      bfloat16(&to)[2][stage_tokens * tile_stride] = tiles[step % stages];
      copy_tile<stage_tokens, outer_threads>(to[0], in.a, range.first + token, range.count - token, range.head,
                                             tile_row);
      copy_tile<stage_tokens, outer_threads>(to[1], in.b, range.first + token, range.count - token, range.head,
                                             tile_column);
    }
    commit_copies();
  };
  for (int step = 0; step < stages - 1; ++step) copy_stage(step);
  const bool has_totals = in.totals != nullptr && tile_column == 0;
  float sums[product_tile / 8][4] = {}, total[4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_copies<stages - 2>();
    __syncthreads();
    copy_stage(step + stages - 1);
    const bfloat16 *a_tile = tiles[step % stages][0], *b_tile = tiles[step % stages][1];
#pragma unroll
    for (int token = 0; token < stage_tokens; token += 16) {
      std::uint32_t a[4];
      load_rows_transposed(a, a_tile, warp_row, token);
      if constexpr (is_mapped) map_fragment(task, range, step * stage_tokens + token, a);
#pragma unroll
      for (int n = 0; n < product_tile / 16; ++n) {
        std::uint32_t b[4];
        load_columns(b, b_tile, token, n * 16);
        add_product(sums[2 * n], a, b[0], b[1]);
        add_product(sums[2 * n + 1], a, b[2], b[3]);
      }
      const int place = step * stage_tokens + token;
      if (has_totals) add_product(total, a, weight_pair(in, range, place), weight_pair(in, range, place + 8));
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile_row + warp_row + lane / 4 + 8 * half;
    if (row >= in.a.width) continue;
    float* const to = chunks.matrices + (range.place * in.a.width + row) * in.b.width;
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n)
      if (const int column = tile_column + 8 * n + lane % 4 * 2; column < in.b.width)
        store_pack(to + column, Pack<float, 2>{sums[n][2 * half], sums[n][2 * half + 1]});
    if (has_totals && lane % 4 == 0) chunks.totals[range.place * in.a.width + row] = total[2 * half];
  }
}

/// out[s, h, i] = sum over the chunks of sequence s of partial[s, chunk, h, i].
template <class A, class Out>
__global__ void add_chunks(Sequences sequences, Chunks<A> chunks, const A* partial, int heads,
                           std::int64_t size, Out* out) {
  const std::int64_t row = heads * size;
  for (std::int64_t i = thread_index(); i < sequences.count * row; i += grid_threads()) {
    const std::int64_t s = i / row;
    const int parts =
        (sequence_range(sequences, static_cast<int>(s)).length + chunks.length - 1) / chunks.length;
    const A* from = partial + s * chunks.count * row + i % row;
    A sum = 0;
#pragma unroll 4
    for (int part = 0; part < parts; ++part) sum += from[part * row];
    out[i] = from_accumulate<Out>(sum);
  }
}

}  // namespace
}  // namespace tern::kernels
