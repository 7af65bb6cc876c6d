// Building blocks of attention on the tensor cores of compute capability 8.0 and later: bfloat16 tiles in
// swizzled shared memory, their asynchronous copies, and fragments of mma.m16n8k16 (PTX ISA, "Warp-level matrix
// instructions"). In a fragment, lane = 4 g + t holds rows g and g + 8, columns 2 t and 2 t + 1 (+ 8).
#pragma once

#include <cstdint>

#include "kernels/cuda/block.cuh"

namespace tern::kernels {

__device__ __forceinline__ std::uint32_t shared_address_of(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Rows of `width` elements. Packs of 16 bytes are permuted within 128 bytes such that the same pack of eight
/// consecutive rows touches all banks.
template <int width>
struct TileLayout {
  static constexpr int row_bytes = 2 * width, row_packs = width / 8;
  static __device__ __forceinline__ std::uint32_t offset(int row, int pack) {
    const int twist = width == 32 ? row >> 1 & 3 : row & 7;
    return static_cast<std::uint32_t>(row * row_bytes + ((pack ^ twist) << 4));
  }
  /// What this lane adds to the address of a 16 x 16 block: of an operand stored by its own rows (A, or B
  /// transposed while loading), and of B stored by its columns. Block k to the right is at `offset ^ k << 5`.
  static __device__ __forceinline__ std::uint32_t row_lane() {
    return offset(static_cast<int>(threadIdx.x) % 16, static_cast<int>(threadIdx.x) % 32 / 16);
  }
  static __device__ __forceinline__ std::uint32_t column_lane() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }
};

/// A 16 x 16 operand A, or two 16 x 8 operands B.
struct Fragment {
  std::uint32_t word[4];
};

__device__ __forceinline__ Fragment load_fragment(std::uint32_t address) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "r"(address)
               : "memory");
  return f;
}
__device__ __forceinline__ Fragment load_transposed_fragment(std::uint32_t address) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "r"(address)
               : "memory");
  return f;
}

/// c += a b.
__device__ __forceinline__ void multiply_add(float (&c)[4], const Fragment& a, std::uint32_t b0,
                                             std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ std::uint32_t pack_bfloat16(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/// The accumulators of a 16 x 16 block as an operand A.
__device__ __forceinline__ Fragment pack_fragment(const float (&c)[2][4]) {
  return {{pack_bfloat16(c[0][0], c[0][1]), pack_bfloat16(c[0][2], c[0][3]), pack_bfloat16(c[1][0], c[1][1]),
           pack_bfloat16(c[1][2], c[1][3])}};
}

/// `bytes` <= 16 from global to shared memory without waiting; the rest of the 16 becomes zero.
__device__ __forceinline__ void copy_16(std::uint32_t target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void copy_8(std::uint32_t target, const void* source, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void copy_4(std::uint32_t target, const void* source, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void store_16(std::uint32_t target, const std::uint32_t (&word)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(target), "r"(word[0]), "r"(word[1]),
               "r"(word[2]), "r"(word[3])
               : "memory");
}

/// Rows of one head in global memory; those from `valid` on and columns from `width` on read as zero.
struct RowSource {
  const bfloat16* data;  ///< the first row
  std::int64_t stride;
  int valid, width;
  bool by_packs;  ///< rows begin at multiples of 16 bytes
};

/// Where a block that pairs rows (block_row()) keeps row `row`.
__device__ __forceinline__ int paired_row(int row) {
  return (row & ~31) | (row & 1) << 4 | (row & 8) | (row & 16) >> 2 | (row & 6) >> 1;
}

/// Enqueues the copy of `rows` rows from row `first` of `source` on; the whole block of `threads` takes part.
template <int width, int rows, int threads, bool pairs_rows = false>
__device__ __forceinline__ void copy_tile(std::uint32_t tile, const RowSource& source, int first) {
  using Layout = TileLayout<width>;
  constexpr int rows_at_once = threads / Layout::row_packs;
  if (!pairs_rows && rows_at_once % 8 == 0 && source.by_packs && first + rows <= source.valid) {
    const int row = static_cast<int>(threadIdx.x) / Layout::row_packs,
              pack = static_cast<int>(threadIdx.x) % Layout::row_packs;
    const bfloat16* from = source.data + (first + row) * source.stride + 8 * pack;
    const std::uint32_t target = tile + Layout::offset(row, pack);
    const int bytes = 2 * min(max(source.width - 8 * pack, 0), 8);
#pragma unroll
    for (int i = 0; i < rows / rows_at_once; ++i) {
      copy_16(target + i * rows_at_once * Layout::row_bytes, from, bytes);
      from += rows_at_once * source.stride;
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < rows * Layout::row_packs / threads; ++i) {
    const int item = i * threads + static_cast<int>(threadIdx.x);
    const int row = item / Layout::row_packs, pack = item % Layout::row_packs;
    const int columns = first + row < source.valid ? min(max(source.width - 8 * pack, 0), 8) : 0;
    const bfloat16* from = columns > 0 ? source.data + (first + row) * source.stride + 8 * pack : source.data;
    const std::uint32_t target = tile + Layout::offset(pairs_rows ? paired_row(row) : row, pack);
    if (source.by_packs) {
      copy_16(target, from, 2 * columns);
      continue;
    }
    std::uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 8; ++c)
      if (c < columns) word[c / 2] |= std::uint32_t{from[c].bits} << 16 * (c % 2);
    store_16(target, word);
  }
}

}  // namespace tern::kernels
