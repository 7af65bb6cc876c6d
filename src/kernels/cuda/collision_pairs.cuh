// Pairs of crowded buckets on tensor cores: one warp, few own rows, any number of partners. Rows go from
// memory to the registers of the products, 8 or 16 bytes at a time; which column a register stands for is free
// where both operands agree, and so is the order of output columns.
#pragma once

#include "kernels/cuda/collision_runs.cuh"
#include "kernels/cuda/collision_weight.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels::crowded {

/// Adds four neighbouring columns of a sum that other warps may add to at the same time, unless `in_order`.
__device__ __forceinline__ void add_columns(float* to, bool in_order, float a, float b, float c, float d) {
  const auto target = reinterpret_cast<float4*>(to);
  if (in_order) {
    const float4 old = *target;
    *target = make_float4(old.x + a, old.y + b, old.z + c, old.w + d);
    return;
  }
#if __CUDA_ARCH__ >= 900
  atomicAdd(target, make_float4(a, b, c, d));
#else
  atomicAdd(to, a);
  atomicAdd(to + 1, b);
  atomicAdd(to + 2, c);
  atomicAdd(to + 3, d);
#endif
}

/// Column of element 2t + e of output tile j (warp_products.cuh): a lane's elements of four tiles are four
/// neighbouring columns, and those of four lanes 64 bytes.
__device__ __forceinline__ int output_column(int j, int t, int e) {
  return 32 * (j / 4) + 16 * e + 4 * t + j % 4;
}

/// A lane's part of one row as an operand of row products: columns 32 u + 8 t .. + 7.
template <int width>
struct RowPart {
  uint4 at[width / 32];

  __device__ __forceinline__ void load(const bfloat16* row, bool is_row, int columns) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int u = 0; u < width / 32; ++u) {
      at[u] = {};
      if (is_row && 32 * u + 8 * t < columns)
        at[u] = __ldg(reinterpret_cast<const uint4*>(row + 32 * u + 8 * t));
    }
  }
};

/// sum[row][partner] += products of 16 rows (g, g + 8) with 8 partners.
template <int width>
__device__ __forceinline__ void add_row_products(float (&sum)[4], const RowPart<width>& low,
                                                 const RowPart<width>& high, const RowPart<width>& partner) {
#pragma unroll
  for (int u = 0; u < width / 32; ++u) {
    const std::uint32_t first[4] = {low.at[u].x, high.at[u].x, low.at[u].y, high.at[u].y};
    add_product(sum, first, partner.at[u].x, partner.at[u].y);
    const std::uint32_t second[4] = {low.at[u].z, high.at[u].z, low.at[u].w, high.at[u].w};
    add_product(sum, second, partner.at[u].z, partner.at[u].w);
  }
}

/// The same half of two words: the first in the low half of the result.
template <int half>
__device__ __forceinline__ std::uint32_t join_halves(std::uint32_t first, std::uint32_t second) {
  return __byte_perm(first, second, half == 0 ? 0x5410 : 0x7632);
}

/// The rows of one head of one sequence, by place: one multiplication for an address.
struct SequenceRows {
  const bfloat16* first;
  std::uint32_t stride;

  __device__ __forceinline__ SequenceRows(const Heads<const bfloat16>& rows, int begin, int head)
      : first(row_of(rows, begin, head)), stride(static_cast<std::uint32_t>(rows.token_stride)) {}
  __device__ __forceinline__ const bfloat16* row(std::uint32_t id) const {
    return first + std::uint64_t{id} * stride;
  }
};

/// own_i += scale * sum_j (y_i . y_j) w x_j for two runs of rows.
template <int width, bool is_exact, class Id>
struct PairProducts {
  static constexpr int most_tiles = width > 64 || is_exact ? 1 : 2;  ///< of 16 own rows each
  static constexpr std::uint32_t own_rows = 16 * most_tiles;
  using Run = RowRun<Id>;
  using Part = RowPart<width>;

  const CrowdedPairs<bfloat16, Id>& p;
  int begin, head;
  float scale;
  bool in_order;  ///< nobody else adds to these rows now

  /// Ids of a run's own rows and of its first partners, one for each lane.
  struct Ids {
    std::uint32_t own, partner;
  };
  __device__ __forceinline__ static Ids ids_of(const Run& own, const Run& partners) {
    return {id_of(own, 0), id_of(partners, 0)};
  }

  /// At most own_rows own rows with any number of partners.
  __device__ __forceinline__ void run(int own_count, const Run& partners, const Ids& ids) const {
    if (most_tiles == 1 || own_count <= 16)
      multiply<1>(own_count, partners, ids);
    else
      multiply<most_tiles>(own_count, partners, ids);
  }

 private:
  __device__ __forceinline__ static std::uint32_t id_of(const Run& run, std::uint32_t first) {
    const std::uint32_t i = first + threadIdx.x % warp_lanes;
    return i < run.count ? run.row(i) : 0;
  }

  /// Rows first + 8 n + g of those whose ids the lanes hold; zeros from row `count` on.
  template <int parts>
  __device__ __forceinline__ void load_parts(const SequenceRows& rows, std::uint32_t ids, int first, int count,
                                             Part (&part)[parts]) const {
    const int g = static_cast<int>(threadIdx.x) % warp_lanes / 4;
#pragma unroll
    for (int n = 0; n < parts; ++n) {
      const int i = first + 8 * n + g;
      part[n].load(rows.row(__shfl_sync(0xFFFFFFFFu, ids, i % warp_lanes)), i < count, p.own_x.width);
    }
  }

  template <int tiles>
  __device__ __forceinline__ static void row_products(const Part (&own)[2 * tiles], const Part (&partner)[2],
                                                      float (&sum)[tiles][2][4]) {
#pragma unroll
    for (int i = 0; i < 2 * tiles; ++i) {
#pragma unroll
      for (int u = 0; u < 4; ++u) sum[i / 2][i % 2][u] = 0;
      add_row_products<width>(sum[i / 2][i % 2], own[i / 2 * 2], own[i / 2 * 2 + 1], partner[i % 2]);
    }
  }

  template <int tiles>
  __device__ __forceinline__ void multiply(int own_count, const Run& partners, const Ids& ids) const {
    float sum[tiles][width / 8][4] = {};
    Part own_y[2 * tiles], own_x[is_exact ? 2 * tiles : 1];
    load_parts(SequenceRows(p.own_y, begin, head), ids.own, 0, own_count, own_y);
    if constexpr (is_exact) load_parts(SequenceRows(p.own_x, begin, head), ids.own, 0, own_count, own_x);
    const SequenceRows partner_x(p.partner_x, begin, head), partner_y(p.partner_y, begin, head);
    std::uint32_t partner_ids = ids.partner;
    const auto total = static_cast<int>(partners.count);
#pragma unroll 1
    for (int first = 0; first < total; first += warp_lanes) {
      const std::uint32_t next_ids = id_of(partners, static_cast<std::uint32_t>(first) + warp_lanes);
      const int count = min(total - first, warp_lanes);
#pragma unroll 1
      for (int k = 0; k < count; k += 16) {
        PartnerRows x;
        Part partner[2];
        load_parts(partner_y, partner_ids, k, count, partner);
        load_partners(x, partner_x, partner_ids, k, count);
        float products[tiles][2][4];
        row_products<tiles>(own_y, partner, products);
        if constexpr (is_exact) {
          float cosines[tiles][2][4];
          load_parts(partner_x, partner_ids, k, count, partner);
          row_products<tiles>(own_x, partner, cosines);
#pragma unroll
          for (int i = 0; i < 8 * tiles; ++i)
            products[i / 8][i / 4 % 2][i % 4] *= scale * exact_weight(cosines[i / 8][i / 4 % 2][i % 4]);
        }
        add_partner_rows<tiles>(sum, products, x);
      }
      partner_ids = next_ids;
    }
#pragma unroll
    for (int q = 0; q < width / 32; ++q) add_to_sums<tiles>(sum, ids.own, own_count, q);
  }

  /// Rows 2t, 2t + 1, 8 + 2t, 9 + 2t of 16: columns output_column(4 q, ...) .. + 3 for this lane's g = 2t + e.
  struct PartnerRows {
    uint2 at[width / 32][4];
  };
  __device__ __forceinline__ void load_partners(PartnerRows& x, const SequenceRows& rows, std::uint32_t ids,
                                                int first, int count) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int partner = first + 8 * (i / 2) + 2 * t + i % 2;
      const bfloat16* from = rows.row(__shfl_sync(0xFFFFFFFFu, ids, partner % warp_lanes));
#pragma unroll
      for (int q = 0; q < width / 32; ++q) {
        const int column = output_column(4 * q, g / 2, g % 2);
        x.at[q][i] = {};
        if (partner < count && column < p.own_x.width)
          x.at[q][i] = __ldg(reinterpret_cast<const uint2*>(from + column));
      }
    }
  }

  /// sum += gains of 16 partners times their x.
  template <int tiles>
  __device__ __forceinline__ static void add_partner_rows(float (&sum)[tiles][width / 8][4],
                                                          const float (&gains)[tiles][2][4],
                                                          const PartnerRows& x) {
    std::uint32_t gain[tiles][4];
#pragma unroll
    for (int i = 0; i < 4 * tiles; ++i) {
      const auto& pair = gains[i / 4][i % 4 / 2];
      gain[i / 4][i % 4] = pack_pair(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
    }
#pragma unroll
    for (int q = 0; q < width / 32; ++q) {
      const uint2(&r)[4] = x.at[q];
      const std::uint32_t b[4][2] = {{join_halves<0>(r[0].x, r[1].x), join_halves<0>(r[2].x, r[3].x)},
                                     {join_halves<1>(r[0].x, r[1].x), join_halves<1>(r[2].x, r[3].x)},
                                     {join_halves<0>(r[0].y, r[1].y), join_halves<0>(r[2].y, r[3].y)},
                                     {join_halves<1>(r[0].y, r[1].y), join_halves<1>(r[2].y, r[3].y)}};
#pragma unroll
      for (int i = 0; i < 4 * tiles; ++i)
        add_product(sum[i / 4][4 * q + i % 4], gain[i / 4], b[i % 4][0], b[i % 4][1]);
    }
  }

  template <int tiles>
  __device__ __forceinline__ void add_to_sums(const float (&sum)[tiles][width / 8][4], std::uint32_t own_id,
                                              int own_count, int q) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
    float* sums = p.sums + (head * p.own_x.tokens + begin) * p.own_x.width;
#pragma unroll
    for (int m = 0; m < 2 * tiles; ++m) {
      const int i = 8 * m + g, first = m % 2 * 2;
      const std::uint32_t id = __shfl_sync(0xFFFFFFFFu, own_id, i);
      if (i >= own_count) continue;
      float* to = sums + std::uint64_t{id} * static_cast<std::uint32_t>(p.own_x.width);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = output_column(4 * q, t, e);
        if (column >= p.own_x.width) continue;
        const auto& s = sum[m / 2];
        const int j = 4 * q, u = first + e;
        add_columns(to + column, in_order, s[j][u], s[j + 1][u], s[j + 2][u], s[j + 3][u]);
      }
    }
  }
};

}  // namespace tern::kernels::crowded
