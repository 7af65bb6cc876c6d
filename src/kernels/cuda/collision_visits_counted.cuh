// From products and counts of collisions to operands, and what crowded buckets add: for gradients that lie in
// registers as sums of products (warp_products.cuh).
#pragma once

#include "kernels/cuda/collision_counts.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/collision_visits.h"

namespace tern::kernels {

using CountedVisits = PartnerVisits<bfloat16, std::uint16_t>;

/// Products are multiplied by count / weight_unit, which takes one instruction.
constexpr float weight_unit = 128;
/// Counts must stay below weight_unit.
constexpr int most_weighted_hashes = 127;

__device__ __forceinline__ CountSource count_source(const CountedVisits& p, int place_bits) {
  return {p.collisions.words, p.collisions.partner_order, p.dx.tokens, p.collisions.hashes, place_bits};
}

/// Products of warpgroups; false where the device or the rows do not suit them.
bool visit_counted_hopper(Cuda& cuda, const CountedVisits& p, const hopper::TilePlan& plan);

/// A block's rows: where they lie, and the sequence that they belong to.
__device__ __forceinline__ AttentionPlace place_of(const hopper::WorkItem& item, int head) {
  return {item.sequence, item.first, item.length, item.start, head, 0};
}

__device__ __forceinline__ std::uint32_t word_of(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

/// x c / 128, where byte `i` of a word is 128 + c.
template <int i>
__device__ __forceinline__ float times_count(float x, std::uint32_t word) {
  // bytes 0, 0, 128 + c, 0x3F make the float 1 + c / 128
  return fmaf(x, __uint_as_float(__byte_perm(word, 0x3Fu, 0x4055 | i << 8)), -x);
}
/// The products of a 16 x 16 block, rows g in s[0], s[1], s[4], s[5], times the counts of rows g and g + 8, as
/// an operand A.
__device__ __forceinline__ void weigh(const float* s, std::uint32_t top, std::uint32_t bottom,
                                      std::uint32_t* weights) {
  top |= 0x80808080u;
  bottom |= 0x80808080u;
  weights[0] = pack_bfloat16(times_count<0>(s[0], top), times_count<1>(s[1], top));
  weights[1] = pack_bfloat16(times_count<0>(s[2], bottom), times_count<1>(s[3], bottom));
  weights[2] = pack_bfloat16(times_count<2>(s[4], top), times_count<3>(s[5], top));
  weights[3] = pack_bfloat16(times_count<2>(s[6], bottom), times_count<3>(s[7], bottom));
}

/// Counts of 16 x 16 pairs as an operand A.
__device__ __forceinline__ void count_operand(std::uint32_t top, std::uint32_t bottom, std::uint32_t* operand) {
  const Fragment counts = count_fragment(top, bottom);
#pragma unroll
  for (int i = 0; i < 4; ++i) operand[i] = counts.word[i];
}

/// Adds what crowded buckets give a row's dx / weight_unit, in the layout of pass_row_scaling().
template <int count>
__device__ __forceinline__ void add_crowded_weights(const CountedVisits& p, std::int64_t token, int head,
                                                    int half, float (&dx)[count]) {
  const float* from =
      p.crowded + (head * p.dx.tokens + token) * p.dx.width + 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
  for (int c = 0; c < count / 4; ++c) {
    const Pack<float, 2> pair = load_pack<2>(from + 8 * c);
    dx[4 * c + 2 * half] += pair.item[0] / weight_unit;
    dx[4 * c + 2 * half + 1] += pair.item[1] / weight_unit;
  }
}

/// The same for dy: the summed rows of the crowded buckets that the row meets. `begin`: of the sequence.
template <int count>
__device__ __forceinline__ void add_crowded_values(const CountedVisits& p, int begin, std::int64_t token,
                                                   int head, int half, float (&dy)[count]) {
  for (int hash = 0; hash < p.collisions.hashes; ++hash) {
    const CountWord word{
        p.collisions.words[(std::int64_t{head} * p.collisions.hashes + hash) * p.dx.tokens + token]};
    if (!word.is_crowded()) continue;
    const std::int64_t row =
        head * p.summed_rows +
        summed_row(p.dx.tokens, hash, begin + std::int64_t{word.word & CountWord::first_bits});
    const bfloat16* from = p.summed + row * p.dx.width + 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
    for (int c = 0; c < count / 4; ++c) {
      const auto pair = *reinterpret_cast<const std::uint32_t*>(from + 8 * c);
      dy[4 * c + 2 * half] += __uint_as_float(pair << 16);
      dy[4 * c + 2 * half + 1] += __uint_as_float(pair & 0xFFFF0000u);
    }
  }
}

}  // namespace tern::kernels
