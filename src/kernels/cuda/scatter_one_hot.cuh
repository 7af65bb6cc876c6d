// Gradients of small tables as products on tensor cores: table += one_hot(id)^T dy, so that the cost does not
// depend on how often an id occurs. bfloat16, float32 sums, sm_80 and later. Deterministic: tokens go
// to warps and blocks in a fixed way, whose tables are added in order. A dy that is not finite reaches all
// rows. Cost: one read of dy for each 256 rows of the table, 2 * rows * tokens * width operations, and the
// tables.
#pragma once

#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {
namespace {

constexpr int hot_columns = 64;  ///< of a block
constexpr int hot_tokens = 128;  ///< that lie in shared memory at a time
constexpr int hot_warps = 16, hot_threads = hot_warps * warp_lanes;
constexpr int hot_ids = 16;  ///< rows of the table of one warp
constexpr int hot_block_ids = hot_ids * hot_warps;
constexpr int hot_pitch = hot_columns + 8;  ///< of a token in shared memory: no bank conflicts in ldmatrix
constexpr int hot_runs = hot_columns / lane_columns;
constexpr int hot_loads = hot_tokens * hot_runs / hot_threads;  ///< runs of eight columns that a thread loads

struct HotTile {
  std::uint16_t dy[hot_tokens][hot_pitch];  ///< bits of bfloat16
  std::int32_t id[hot_tokens];              ///< less the block's first, negative for none
};
/// Half of the warps hands its sums to the other half here, after the last tile.
union HotMemory {
  HotTile tile[2];
  float4 sums[hot_warps / 2][hot_runs][warp_lanes];
};

/// What a thread has on its way from memory: rows threadIdx / 8 + 64 i of a tile.
struct HotLoads {
  Eight<bfloat16> dy[hot_loads];
  DropoutRow coordinates[hot_loads];
  std::int32_t id;
};

struct HotArguments {
  Rows<const bfloat16> dy;
  DropoutDraw<float> draw;
  const std::int32_t* id;
  std::int64_t rows, chunk;  ///< tokens of a block
  int id_warps;              ///< 2, 4, 8 or 16: 16 rows of the table each; the other warps take other tokens
  float* partial;
};

__device__ __forceinline__ HotLoads load_hot(const HotArguments& a, std::int64_t first, std::int64_t end,
                                             std::int64_t column, std::uint32_t step) {
  HotLoads loads;
#pragma unroll
  for (int i = 0; i < hot_loads; ++i) {
    const std::int64_t own = first + threadIdx.x / hot_runs + i * (hot_threads / hot_runs),
                       token = own < end ? own : end - 1;  // those beyond have no id
    loads.dy[i] = load_raw(a.dy.data + token * a.dy.stride + column);
    loads.coordinates[i] = a.draw.row(token, step);
  }
  const std::int64_t token = first + threadIdx.x;
  loads.id = threadIdx.x < hot_tokens && token < end ? a.id[token] : -1;
  return loads;
}

/// Stores a tile, dropped entries as zeros; the factor of the others is left to the end.
__device__ __forceinline__ void store_hot(const HotArguments& a, HotLoads& loads, std::int64_t column,
                                          HotTile& tile) {
#pragma unroll
  for (int i = 0; i < hot_loads; ++i) {
    const std::uint32_t kept = a.draw.kept(loads.coordinates[i], static_cast<std::uint32_t>(column));
#pragma unroll
    for (int c = 0; c < lane_columns; ++c)
      if ((kept >> c & 1) == 0) loads.dy[i].pack[0].item[c].bits = 0;
    const unsigned row = threadIdx.x / hot_runs + i * (hot_threads / hot_runs);
    store_pack(reinterpret_cast<bfloat16*>(&tile.dy[row][threadIdx.x % hot_runs * lane_columns]),
               loads.dy[i].pack[0]);
  }
  if (threadIdx.x < hot_tokens)
    tile.id[threadIdx.x] = loads.id - static_cast<std::int32_t>(blockIdx.z * hot_block_ids);
}

/// Right operands of two products: tokens first .. first + 15 by columns column .. column + 15.
__device__ __forceinline__ void load_operands(const HotTile& tile, int first, int column,
                                              std::uint32_t (&b)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  load_matrices_transposed(b, shared_address(&tile.dy[first + lane % 16][column + lane / 16 * lane_columns]));
}
/// Two entries of the one-hot matrix: 1 where the tokens' ids are `row`.
__device__ __forceinline__ std::uint32_t hot_pair(int2 id, int row) {
  return (id.x == row ? 0x3F80u : 0u) | (id.y == row ? 0x3F800000u : 0u);
}

/// sums += one-hot products of 16 tokens with this warp's 16 rows, the first of which is `row`.
__device__ __forceinline__ void add_hot(const HotTile& tile, int first, int row, float (&sums)[hot_runs][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, group = lane / 4, pair = lane % 4 * 2;
  const int2 near = *reinterpret_cast<const int2*>(&tile.id[first + pair]),
             far = *reinterpret_cast<const int2*>(&tile.id[first + pair + 8]);
  std::uint32_t b[hot_runs / 2][4];
#pragma unroll
  for (int n = 0; n < hot_runs / 2; ++n) load_operands(tile, first, n * 2 * lane_columns, b[n]);
  const std::uint32_t a[4] = {hot_pair(near, row + group), hot_pair(near, row + group + 8),
                              hot_pair(far, row + group), hot_pair(far, row + group + 8)};
#pragma unroll
  for (int n = 0; n < hot_runs / 2; ++n) {
    add_product(sums[2 * n], a, b[n][0], b[n][1]);
    add_product(sums[2 * n + 1], a, b[n][2], b[n][3]);
  }
}

/// Adds the sums of warps with equal rows, in a fixed order, into those of the first of them: warp w takes
/// those of w + `step`.
__device__ __forceinline__ void join_warps(HotMemory& memory, int warp, int id_warps,
                                           float (&sums)[hot_runs][4]) {
  const unsigned lane = threadIdx.x % warp_lanes;
  for (int step = hot_warps / 2; step >= id_warps; step /= 2) {
    __syncthreads();
    if (warp >= step && warp < 2 * step)
#pragma unroll
      for (int n = 0; n < hot_runs; ++n)
        memory.sums[warp - step][n][lane] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
    __syncthreads();
    if (warp >= step) continue;
#pragma unroll
    for (int n = 0; n < hot_runs; ++n) {
      const float4 theirs = memory.sums[warp][n][lane];
      sums[n][0] += theirs.x;
      sums[n][1] += theirs.y;
      sums[n][2] += theirs.z;
      sums[n][3] += theirs.w;
    }
  }
}

/// Writes 16 rows, the first of which is `first` of the table, to the block's partial table.
__device__ __forceinline__ void store_sums(const HotArguments& a, std::int64_t first, std::int64_t first_column,
                                           const float (&sums)[hot_runs][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first + lane / 4 + half * 8;
    if (row >= a.rows) continue;
    float* const to = a.partial + (blockIdx.x * a.rows + row) * a.dy.width;
#pragma unroll
    for (int n = 0; n < hot_runs; ++n) {
      const std::int64_t c = first_column + n * lane_columns + lane % 4 * 2;
      if (c < a.dy.width)
        *reinterpret_cast<float2*>(to + c) =
            make_float2(sums[n][half * 2] * a.draw.scale, sums[n][half * 2 + 1] * a.draw.scale);
    }
  }
}

/// Block (x, y, z): chunk x of the tokens, columns 64 y .. 64 y + 63, rows 256 z .. 256 z + 255 of the table,
/// into partial[x].
__global__ void __launch_bounds__(hot_threads) one_hot_sums(HotArguments a) {
  __shared__ __align__(16) HotMemory memory;
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int token_warps = hot_warps / a.id_warps, row = warp % a.id_warps * hot_ids, turn = warp / a.id_warps;
  const std::int64_t first_column = std::int64_t{blockIdx.y} * hot_columns,
                     own = first_column + threadIdx.x % hot_runs * lane_columns;
  const std::int64_t column = own < a.dy.width ? own : 0;  // columns beyond are not stored
  const std::int64_t start = blockIdx.x * a.chunk,
                     end = start + a.chunk < a.dy.rows ? start + a.chunk : a.dy.rows;
  const std::uint32_t step = a.draw.step();
  float sums[hot_runs][4] = {};
  HotLoads loads = load_hot(a, start, end, column, step);
  int slot = 0;
  for (std::int64_t first = start; first < end; first += hot_tokens, slot ^= 1) {
    HotTile& tile = memory.tile[slot];
    store_hot(a, loads, column, tile);
    __syncthreads();  // two tiles: nobody can still read the one that is written next
    if (first + hot_tokens < end) loads = load_hot(a, first + hot_tokens, end, column, step);
    for (int k = turn * 16; k < hot_tokens; k += token_warps * 16) add_hot(tile, k, row, sums);
  }
  join_warps(memory, warp, a.id_warps, sums);
  if (turn == 0) store_sums(a, std::int64_t{blockIdx.z} * hot_block_ids + row, first_column, sums);
}

/// Tables above are cheaper by sorting.
constexpr std::int64_t most_hot_rows = 1024;

void scatter_one_hot(Cuda& cuda, const Rows<const bfloat16>& dy, const DropoutDraw<float>& draw,
                     const std::int32_t* id, std::int64_t rows, float* table) {
  const std::int64_t slices = (dy.width + hot_columns - 1) / hot_columns,
                     groups = (rows + hot_block_ids - 1) / hot_block_ids;
  const std::int64_t most = std::max<std::int64_t>(cuda.multiprocessors / (slices * groups), 1);
  const std::int64_t chunks = std::clamp<std::int64_t>((dy.rows + hot_tokens - 1) / hot_tokens, 1, most);
  int id_warps = 2;  // with one, there were more warps than runs of 16 tokens in a tile
  while (id_warps < hot_warps && id_warps * hot_ids < rows) id_warps *= 2;
  const Scratch<float> partial(cuda, chunks * rows * dy.width);
  const HotArguments arguments{dy, draw, id, rows, (dy.rows + chunks - 1) / chunks, id_warps, partial.data()};
  const dim3 blocks(static_cast<unsigned>(chunks), static_cast<unsigned>(slices),
                    static_cast<unsigned>(groups));
  one_hot_sums<<<blocks, hot_threads, 0, cuda.stream>>>(arguments);
  check_launch("scatter_add_rows");
  add_partial_sums<float>(cuda, partial.data(), chunks, table, rows * dy.width);
}

}  // namespace
}  // namespace tern::kernels
