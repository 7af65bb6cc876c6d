// Directions as operands of products on tensor cores: what the kernels of hash_codes_products.cu and
// hash_codes_resident.cu share. The columns of a product are ordered so that each thread's sums are the bits of
// whole codes: of every 8 columns lane t of four owns 2 t and 2 t + 1, which are bits 2 k and 2 k + 1 of hash t
// of four; its rows are neighbours, so that their codes leave as one access. Directions are negated: a bit is
// the sign of its sum.
#pragma once

#include "kernels/cuda/hash_codes.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {

constexpr int hashes_together = 4;  // whose bits lie in one product

/// What lane t of four holds of one column in one step of the depth: columns fragment_depth() .. + 3 of x, for
/// one part of the directions.
struct alignas(8) Fragment {
  std::uint32_t low, high;
};
/// Steps come in pairs, in which a lane has 8 neighbours: 16 bytes of a row.
__device__ __forceinline__ int fragment_depth(int step, int t) {
  return 32 * (step / 2) + 8 * t + 4 * (step % 2);
}

/// Fragments of all (sequence, head) pairs in the order in which warps read them: [pair][group of
/// hashes][product][step][part][lane], or in that of warpgroups, where the low words of all lanes precede the
/// high ones: two matrices of 8 columns x 16 bytes.
template <int steps, int parts>
struct FragmentPlan {
  static constexpr int of_product = steps * parts * warp_lanes;
  int groups, products;
  bool is_for_warpgroups = false;

  __host__ __device__ int of_group() const { return products * of_product; }
  __host__ __device__ int of_pair() const { return groups * of_group(); }
};

/// sum = product of a and b.
__device__ __forceinline__ void set_product(float (&sum)[4], const std::uint32_t (&a)[4], const Fragment& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %10, %10, %10};"
      : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.low), "r"(b.high), "f"(0.0f));
}

/// Shifts the signs of two neighbouring bits of both rows into their codes, the upper bit first.
__device__ __forceinline__ void shift_in_signs(const float (&sum)[4], std::uint32_t& first,
                                               std::uint32_t& second) {
  first = __funnelshift_l(__float_as_uint(sum[1]), first, 1);
  first = __funnelshift_l(__float_as_uint(sum[0]), first, 1);
  second = __funnelshift_l(__float_as_uint(sum[3]), second, 1);
  second = __funnelshift_l(__float_as_uint(sum[2]), second, 1);
}

/// Codes of `count` neighbouring rows, of which those in [0, length) exist.
template <int count, class Code>
__device__ __forceinline__ void store_codes(const std::uint32_t (&code)[count], int row, int length,
                                            bool is_aligned, Code* to) {
  constexpr int items = std::min(count, pack_items<Code>);
#pragma unroll
  for (int first = 0; first < count; first += items, row += items) {
    if (is_aligned && row >= 0 && row + items <= length) {
      Pack<Code, items> pack;
#pragma unroll
      for (int u = 0; u < items; ++u) pack.item[u] = static_cast<Code>(code[first + u]);
      store_pack(to + row, pack);
      continue;
    }
#pragma unroll
    for (int u = 0; u < items; ++u)
      if (row + u >= 0 && row + u < length) to[row + u] = static_cast<Code>(code[first + u]);
  }
}

/// Codes of packed rows, from fragments of directions, of at most 16 bits.
template <int steps>
void project_packed(Cuda& cuda, const Projection<bfloat16, std::uint16_t>& projection,
                    const FragmentPlan<steps, 1>& plan, const Fragment* fragments, bool is_aligned);

/// The plan of fragments for warpgroups where the device and the shapes suit these, else `plan` as it is.
template <int steps>
FragmentPlan<steps, 1> warpgroup_plan(const Cuda& cuda, const Projection<bfloat16, std::uint16_t>& projection,
                                      const FragmentPlan<steps, 1>& plan);
/// The same codes from such fragments.
template <int steps>
void project_by_warpgroups(Cuda& cuda, const Projection<bfloat16, std::uint16_t>& projection,
                           const FragmentPlan<steps, 1>& plan, const Fragment* fragments, bool is_aligned);

}  // namespace tern::kernels
