// Products of one warp on tensor cores, compute capability 8.0 and later: mma.sync m16n8k16 on bfloat16 with
// float32 sums (PTX ISA, "Matrix fragments for mma.m16n8k16"), and what brings fragments to registers.
//
// With g = lane / 4 and t = lane % 4 a lane holds
//   a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8): rows x depth, pairs along depth
//
//   b[0] (2t, g), b[1] (2t + 8, g): depth x columns, pairs along depth
//
//   sum[0], sum[1] (g, 2t), sum[2], sum[3] (g + 8, 2t): rows x columns
#pragma once

#include "kernels/cuda/block.cuh"

namespace tern::kernels {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void add_product(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                            std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices; lanes 8 i .. 8 i + 7 give the addresses of the rows of matrix i. A lane receives
/// elements (g, 2t), (g, 2t + 1) of each, or with `transposed` elements (2t, g), (2t + 1, g).
__device__ __forceinline__ void load_matrices(std::uint32_t (&to)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&to)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

/// Two neighbours as one register, the first in the low half.
__device__ __forceinline__ std::uint32_t pack_pair(float first, float second) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
__device__ __forceinline__ float first_of(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float second_of(std::uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

/// Copies `bytes` to shared memory behind the computation; zeros where !`is_inside`, `from` is not read then.
template <int bytes>
__device__ __forceinline__ void copy_ahead(std::uint32_t to, const void* from, bool is_inside) {
  const int size = is_inside ? bytes : 0;
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(size) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(bytes), "r"(size)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `pending` of the latest committed groups are unfinished.
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace tern::kernels
