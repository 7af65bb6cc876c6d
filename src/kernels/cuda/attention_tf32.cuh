// Tiles of attention with tensor cores: mma.m16n8k8 on float32 operands rounded to tf32, sums in float32. In
// the place of SimtTiles (attention_simt_tiles.cuh).
//
// The order of rows, of keys and of the summed index inside an mma is free. It is chosen so that (1) a lane's
// results are whole patches of 4 x 4 weights, (2) each access to shared memory is 16 bytes a lane without bank
// conflicts, and (3) the weights of one product are the left operand of the next as they lie in registers.
#pragma once

#include "kernels/cuda/attention_simt_tiles.cuh"

namespace tern::kernels {
namespace {

/// Lane 4 g + t of a warp's 32 rows: rows patch(g) + {0, 8} of two mma (+ 0 and + 1), and of every 32 keys two
/// patches, keys(2 t) and keys(2 t + 1).
struct Tf32Lane {
  static constexpr int flip = 0;
  int warp, g, t;
  __device__ Tf32Lane()
      : warp(static_cast<int>(threadIdx.x) / warp_lanes),
        g(static_cast<int>(threadIdx.x) % warp_lanes / 4),
        t(static_cast<int>(threadIdx.x) % 4) {}
  /// Offset of element e of a patch.
  __device__ static int inside(int e) { return (e & 1) + (e & 2) * 4; }
  /// First key of patch n of 32 keys.
  __device__ static int patch_key(int n) { return n % 2 == 0 ? n : 16 + ((n - 1) ^ 2); }
  __device__ int row(int r) const { return warp * 32 + g / 4 * 16 + g % 4 * 2 + inside(r); }
  __device__ int key(int j) const { return j / 8 * 32 + patch_key(2 * t + j / 4 % 2) + inside(j); }
  /// Column of pack p of the sums.
  __device__ int column(int p) const { return p / 2 * 32 + t * 8 + p % 2 * 4; }
};

template <int columns_, int key_groups_, int blocks_>
struct Tf32Tiles {
  using Value = float;
  static constexpr int warps = 4, threads = warps * warp_lanes;
  static constexpr int blocks = blocks_;  // that share a multiprocessor's registers
  static constexpr int columns = columns_, key_groups = key_groups_;
  static constexpr int rows = warps * 32, keys = 32 * key_groups;
  static constexpr int thread_rows = 4, thread_keys = 8 * key_groups, thread_columns = columns / 4;
  static constexpr int items = 4, stride = columns + 8, value_stride = columns + 4;
  static constexpr int weight_items = 0;
  static constexpr int row_lanes = 4;

  using Lane = Tf32Lane;
  using Scores = float[thread_rows][thread_keys];
  using Sums = float[thread_rows][thread_columns];
};

__device__ __forceinline__ std::uint32_t to_tf32(float x) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
struct Tf32Pack {
  std::uint32_t item[4];
};
__device__ __forceinline__ Tf32Pack load_tf32(const float* from) {
  const Pack<float, 4> pack = load_pack<4>(from);
  return {to_tf32(pack.item[0]), to_tf32(pack.item[1]), to_tf32(pack.item[2]), to_tf32(pack.item[3])};
}

/// c += a b; lane 4 g + t holds rows g (a0, a2, c0, c1) and g + 8, depths t (a0, a1, b0) and t + 4, columns g
/// of b, and columns 2 t (c0, c2) and 2 t + 1 of c.
__device__ __forceinline__ void multiply_tf32(float& c0, float& c1, float& c2, float& c3, std::uint32_t a0,
                                              std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                                              std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// scores += resident streamed^T over the staged columns, 16 at a time: depths t and t + 4 of two mma are
/// columns 4 t .. 4 t + 3.
template <class Tiles>
__device__ __forceinline__ void add_products(const Tf32Lane& lane, const float* resident, const float* streamed,
                                             typename Tiles::Scores& scores) {
  const float* const left = resident + lane.row(0) * Tiles::stride + 4 * lane.t;
  const float* const right = streamed + lane.patch_key(lane.g) * Tiles::stride + 4 * lane.t;
#pragma unroll 2
  for (int c = 0; c < Tiles::columns; c += 16) {
    Tf32Pack a[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = load_tf32(left + lane.inside(r) * Tiles::stride + c);
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; j += j % 8 == 3 ? 5 : 1) {
      const Tf32Pack b = load_tf32(right + (j / 8 * 32 + lane.inside(j)) * Tiles::stride + c);
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
          multiply_tf32(scores[m][j], scores[m][j + 4], scores[m + 2][j], scores[m + 2][j + 4], a[m].item[i],
                        a[m + 2].item[i], a[m].item[i + 1], a[m + 2].item[i + 1], b.item[i], b.item[i + 1]);
    }
  }
}

/// sums += weights streamed, 8 keys at a time: depths t and t + 4 are patches 2 t and 2 t + 1, column n of mma
/// i is column 4 n + i of 32.
template <class Tiles, int stride>
__device__ __forceinline__ void add_weighted(const Tf32Lane& lane, const typename Tiles::Scores& weights,
                                             float*, const float* streamed, typename Tiles::Sums& sums) {
  const float* const even = streamed + lane.patch_key(2 * lane.t) * stride + 4 * lane.g;
  const float* const odd = streamed + lane.patch_key(2 * lane.t + 1) * stride + 4 * lane.g;
#pragma unroll
  for (int j = 0; j < Tiles::thread_keys; j += j % 8 == 3 ? 5 : 1) {
    const int key = (j / 8 * 32 + lane.inside(j)) * stride;
    std::uint32_t a[4], a_odd[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      a[r] = to_tf32(weights[r][j]);
      a_odd[r] = to_tf32(weights[r][j + 4]);
    }
#pragma unroll
    for (int c = 0; c < Tiles::columns; c += 32) {
      const Tf32Pack b = load_tf32(even + key + c), b_odd = load_tf32(odd + key + c);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int m = 0; m < 2; ++m)
          multiply_tf32(sums[m][c / 4 + i], sums[m][c / 4 + 4 + i], sums[m + 2][c / 4 + i],
                        sums[m + 2][c / 4 + 4 + i], a[m], a[m + 2], a_odd[m], a_odd[m + 2], b.item[i],
                        b_odd.item[i]);
    }
  }
}

}  // namespace
}  // namespace tern::kernels
