// How a warp's gradients of 16 rows leave the registers: bfloat16 rows whose sums are those of products on
// tensor cores (warp_products.cuh).
#pragma once

#include "kernels/cuda/collision_visits.h"
#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {

/// Rows `first` .. `first` + `count` - 1 of a head, at most 16. Bit r of `has_partners`: row r belongs to a
/// sequence; of `has_crowded`: it meets crowded buckets.
struct WarpRows {
  int head, first, count;
  std::uint32_t has_partners, has_crowded;

  __device__ __forceinline__ bool may_collide(int row) const { return (has_partners >> row & 1) != 0; }
  __device__ __forceinline__ bool meets_crowded(int row) const { return (has_crowded >> row & 1) != 0; }
};

/// Own rows as fragments of products over their columns; zeros behind the last.
template <int width>
__device__ __forceinline__ void load_fragments(const Heads<const bfloat16>& rows, const WarpRows& own,
                                               std::uint32_t (&fragment)[width / 16][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < width / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = g + i % 2 * 8, column = 16 * k + 2 * t + i / 2 * 8;
      const bfloat16* from = row_of(rows, own.first + row, own.head) + column;
      fragment[k][i] = row < own.count ? *reinterpret_cast<const std::uint32_t*>(from) : 0;
    }
  }
}

/// Takes a warp's gradients of rows lane / 4 + 8 half through the scaling of these rows.
template <int columns, class Id>
__device__ __forceinline__ void pass_scaling(const PartnerVisits<bfloat16, Id>& p, float (&dx)[columns][4],
                                             int half, const WarpRows& own) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, row = lane / 4 + 8 * half;
  const bool is_row = own.may_collide(row);
  const int token = is_row ? own.first + row : 0;
  const bfloat16* x = row_of(p.own_x, token, own.head) + 2 * (lane % 4);
  std::uint32_t pair[columns];
  float dot = 0;
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    pair[c] = is_row ? *reinterpret_cast<const std::uint32_t*>(x + 8 * c) : 0;
    dot += first_of(pair[c]) * dx[c][2 * half] + second_of(pair[c]) * dx[c][2 * half + 1];
  }
  dot = warp_sum(dot, 4);
  const float length = is_row ? *row_of(p.norm, token, own.head) : 0.0f,
              factor = length < static_cast<float>(smallest_norm) ? 0.0f : 1.0f / length;
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    dx[c][2 * half] = (dx[c][2 * half] - first_of(pair[c]) * dot) * factor;
    dx[c][2 * half + 1] = (dx[c][2 * half + 1] - second_of(pair[c]) * dot) * factor;
  }
}

/// What crowded buckets give, the scale, and the scaling of own rows.
template <int columns, class Id>
__device__ __forceinline__ void finish_gradients(const PartnerVisits<bfloat16, Id>& p, float (&dx)[columns][4],
                                                 const WarpRows& own) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = g + 8 * half;
    const std::int64_t place = own.head * p.dx.tokens + own.first + row;
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      float* sum = dx[c] + 2 * half;
      if (own.meets_crowded(row)) {
        float* from = p.crowded + place * (8 * columns) + 8 * c + 2 * t;
        const Pack<float, 2> crowded = load_pack<2>(from);
        sum[0] += crowded.item[0];
        sum[1] += crowded.item[1];
        store_pack(from, Pack<float, 2>{});
      }
      sum[0] *= p.scale;
      sum[1] *= p.scale;
    }
    if (p.norm.data != nullptr) pass_scaling(p, dx, half, own);
  }
}

/// Adds the summed rows, of the head from `summed` on, that row lane / 4 + 8 half meets.
template <int columns, class Id>
__device__ __forceinline__ void add_summed_rows(const PartnerLists<Id>& lists, const bfloat16* summed,
                                                float (&sum)[columns][4], int half, const WarpRows& own) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, row = lane / 4 + 8 * half;
  if (!own.meets_crowded(row)) return;
  const EntryRange range = lists.crowded[own.head * lists.tokens + own.first + row];
  const std::uint32_t* rows = lists.sums + own.head * lists.sum_stride + range.first;
#pragma unroll 4
  for (std::uint32_t e = 0; e < range.count; ++e) {
    const bfloat16* from = summed + std::int64_t{rows[e]} * (8 * columns) + 2 * (lane % 4);
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const auto pair = *reinterpret_cast<const std::uint32_t*>(from + 8 * c);
      sum[c][2 * half] += first_of(pair);
      sum[c][2 * half + 1] += second_of(pair);
    }
  }
}

/// Adds what crowded buckets give and writes a warp's rows.
template <bool has_dy, int columns, class Id>
__device__ __forceinline__ void store_rows(const PartnerVisits<bfloat16, Id>& p, float (&dx)[columns][4],
                                           float (&dy)[columns][4], const WarpRows& own) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
  finish_gradients(p, dx, own);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = g + 8 * half;
    if (row >= own.count) continue;
    bfloat16* to = row_of(p.dx, own.first + row, own.head);
#pragma unroll
    for (int c = 0; c < columns; ++c)
      *reinterpret_cast<std::uint32_t*>(to + 8 * c + 2 * t) = pack_pair(dx[c][2 * half], dx[c][2 * half + 1]);
    if constexpr (has_dy) {
      add_summed_rows(p.collisions.lists, p.summed + own.head * p.summed_rows * (8 * columns), dy, half, own);
      to = row_of(p.dy, own.first + row, own.head);
#pragma unroll
      for (int c = 0; c < columns; ++c)
        *reinterpret_cast<std::uint32_t*>(to + 8 * c + 2 * t) =
            pack_pair(p.value_scale * dy[c][2 * half], p.value_scale * dy[c][2 * half + 1]);
    }
  }
}

}  // namespace tern::kernels
