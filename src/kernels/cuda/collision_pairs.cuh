// Pairs of crowded buckets on tensor cores: one warp, few own rows, any number of partners. Rows go from
// memory to the registers of the products, 8 or 16 bytes at a time; which column a register stands for is free
// where both operands agree, and so is the order of output columns.
#pragma once

#include <type_traits>

#include "kernels/cuda/collision_runs.cuh"
#include "kernels/cuda/collision_weight.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels::crowded {

/// Adds four neighbouring columns of a sum, `alone` if no other warp may add to them at the same time.
template <bool alone>
__device__ __forceinline__ void add_columns(float* to, const float (&sum)[4]) {
  const auto target = reinterpret_cast<float4*>(to);
  if constexpr (alone) {
    const float4 old = *target;
    *target = make_float4(old.x + sum[0], old.y + sum[1], old.z + sum[2], old.w + sum[3]);
    return;
  }
#if __CUDA_ARCH__ >= 900
  atomicAdd(target, make_float4(sum[0], sum[1], sum[2], sum[3]));
#else
#pragma unroll
  for (int v = 0; v < 4; ++v) atomicAdd(to + v, sum[v]);
#endif
}

/// Where a lane adds to rows 2 i and 2 i + 1 of a tile, of which it holds row g: null where there is no row.
struct RowPair {
  float *even, *odd;  ///< from column first_column() on

  __device__ __forceinline__ static bool is_odd() { return threadIdx.x / 4 % 2 == 1; }
  __device__ __forceinline__ static int first_column() { return (is_odd() ? 16 : 0) + threadIdx.x % 4 * 4; }

  /// Adds a lane's elements of tiles 4 q .. 4 q + 3 (output_column) at u and u + 1, to columns 32 q + ..
  /// Lanes exchange half of them first, so that eight add a whole line of 128 bytes at once.
  template <bool alone, int tiles>
  __device__ __forceinline__ void add(const float (&sum)[tiles][4], int q, int u, int width) const {
    float even_sum[4], odd_sum[4];
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const float low = sum[4 * q + v][u], high = sum[4 * q + v][u + 1];
      const float other = __shfl_xor_sync(0xFFFFFFFFu, is_odd() ? low : high, 4);
      even_sum[v] = is_odd() ? other : low;
      odd_sum[v] = is_odd() ? high : other;
    }
    if (32 * q + first_column() >= width) return;
    if (even != nullptr) add_columns<alone>(even + 32 * q, even_sum);
    if (odd != nullptr) add_columns<alone>(odd + 32 * q, odd_sum);
  }
};

/// Column of element 2t + e of output tile j (warp_products.cuh): a lane's elements of four tiles are four
/// neighbouring columns, and those of four lanes 64 bytes.
__device__ __forceinline__ int output_column(int j, int t, int e) {
  return 32 * (j / 4) + 16 * e + 4 * t + j % 4;
}

/// A lane's part of one row as an operand of row products: columns 32 u + 8 t .. + 7.
template <int width>
struct RowPart {
  uint4 at[width / 32];
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

/// What a lane reads of the rows of one head of one sequence: columns 32 u from `column` on. Behind the last
/// column it reads the first ones, so that loads need no condition.
template <int width>
struct RowReader {
  const char* from[width / 32];
  std::uint32_t stride;  ///< bytes

  __device__ __forceinline__ RowReader(const Heads<const bfloat16>& rows, int begin, int head, int column)
      : stride(static_cast<std::uint32_t>(rows.token_stride) * 2) {
    const bfloat16* first = row_of(rows, begin, head);
#pragma unroll
    for (int u = 0; u < width / 32; ++u)
      from[u] = reinterpret_cast<const char*>(first + (column + 32 * u < rows.width ? column + 32 * u : 0));
  }
  template <class Words>
  __device__ __forceinline__ Words load(std::uint32_t id, int u) const {
    return __ldg(reinterpret_cast<const Words*>(from[u] + std::uint64_t{id} * stride));
  }
  __device__ __forceinline__ RowPart<width> part(std::uint32_t id) const {
    RowPart<width> part;
#pragma unroll
    for (int u = 0; u < width / 32; ++u) part.at[u] = load<uint4>(id, u);
    return part;
  }
};

/// own_i += scale * sum_j (y_i . y_j) w x_j for two runs of rows.
template <int width, bool is_exact, class Id>
struct PairProducts {
  static constexpr int most_tiles = width > 64 || is_exact ? 1 : 2;  ///< of 16 own rows each
  static constexpr std::uint32_t own_rows = 16 * most_tiles;
  using Run = RowRun<Id>;
  using Part = RowPart<width>;
  using Reader = RowReader<width>;

  const CrowdedPairs<bfloat16, Id>& p;
  int begin, head;
  float scale;
  bool in_order;  ///< nobody else adds to these rows now

  /// Ids of a run's own rows and of its first partners, one for each lane. Behind the last row its id is
  /// repeated, so that all lanes may read; what comes of such rows is not added, or has gain 0.
  struct Ids {
    std::uint32_t own, partner;
  };
  __device__ __forceinline__ static Ids ids_of(const Run& own, const Run& partners) {
    return {id_of(own, 0), id_of(partners, 0)};
  }

  /// At most 16 own rows with any number of partners.
  __device__ __forceinline__ void run_tile(int own_count, const Run& partners, const Ids& ids) const {
    multiply<1>(own_count, partners, ids);
  }
  /// At most own_rows own rows with any number of partners.
  __device__ __forceinline__ void run(int own_count, const Run& partners, const Ids& ids) const {
    if (most_tiles == 1 || own_count <= 16)
      multiply<1>(own_count, partners, ids);
    else
      multiply<most_tiles>(own_count, partners, ids);
  }

 private:
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % warp_lanes; }
  __device__ __forceinline__ static std::uint32_t id_of(const Run& run, std::uint32_t first) {
    return run.row(min(first + threadIdx.x % warp_lanes, run.count - 1));
  }

  /// Own rows 8 n + g; zeros behind the last column.
  template <int parts>
  __device__ __forceinline__ void load_own(const Heads<const bfloat16>& rows, const std::uint32_t (&id)[parts],
                                           Part (&own)[parts]) const {
    const int column = lane() % 4 * 8;
    const Reader reader(rows, begin, head, column);
#pragma unroll
    for (int n = 0; n < parts; ++n) {
#pragma unroll
      for (int u = 0; u < width / 32; ++u) {
        own[n].at[u] = {};
        if (column + 32 * u < p.own_x.width) own[n].at[u] = reader.template load<uint4>(id[n], u);
      }
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
    std::uint32_t own_id[2 * tiles];
#pragma unroll
    for (int n = 0; n < 2 * tiles; ++n) own_id[n] = __shfl_sync(0xFFFFFFFFu, ids.own, 8 * n + lane() / 4);
    float sum[tiles][width / 8][4] = {};
    Part own_y[2 * tiles], own_x[is_exact ? 2 * tiles : 1];
    load_own(p.own_y, own_id, own_y);
    if constexpr (is_exact) load_own(p.own_x, own_id, own_x);
    const Reader partner_x(p.partner_x, begin, head, output_column(0, lane() / 8, lane() / 4 % 2)),
        partner_y(p.partner_y, begin, head, lane() % 4 * 8);
    std::uint32_t partner_ids = ids.partner;
    const auto total = static_cast<int>(partners.count);
#pragma unroll 1
    for (int first = 0; first < total; first += warp_lanes) {
      const std::uint32_t next_ids =
          first + warp_lanes < total ? id_of(partners, static_cast<std::uint32_t>(first) + warp_lanes) : 0;
      const int count = min(total - first, warp_lanes);
#pragma unroll 1
      for (int k = 0; k < count; k += 16) {
        const PartnerIds id(partner_ids, k);
        const Part partner[2] = {partner_y.part(id.of_part[0]), partner_y.part(id.of_part[1])};
        const PartnerRows x(partner_x, id);
        float products[tiles][2][4];
        row_products<tiles>(own_y, partner, products);
        if constexpr (is_exact) {
          const Reader as_parts(p.partner_x, begin, head, lane() % 4 * 8);
          const Part partner_part[2] = {as_parts.part(id.of_part[0]), as_parts.part(id.of_part[1])};
          float cosines[tiles][2][4];
          row_products<tiles>(own_x, partner_part, cosines);
#pragma unroll
          for (int i = 0; i < 8 * tiles; ++i)
            products[i / 8][i / 4 % 2][i % 4] *= scale * exact_weight(cosines[i / 8][i / 4 % 2][i % 4]);
        }
        const int left = count - k - lane() % 4 * 2;
#pragma unroll
        for (int i = 0; i < 8 * tiles; ++i)
          if (i / 4 % 2 * 8 + i % 2 >= left) products[i / 8][i / 4 % 2][i % 4] = 0;
        add_partner_rows<tiles>(sum, products, x);
      }
      partner_ids = next_ids;
    }
    add_to_sums<tiles>(sum, own_id, own_count);
  }

  /// Ids of rows g, 8 + g and 2t, 2t + 1, 8 + 2t, 9 + 2t of 16, from those that the lanes hold. They are all
  /// there before the first row is asked for.
  struct PartnerIds {
    std::uint32_t of_part[2], of_rows[4];

    __device__ __forceinline__ PartnerIds(std::uint32_t ids, int first) {
      const auto at = [&](int i) { return __shfl_sync(0xFFFFFFFFu, ids, first + i); };
#pragma unroll
      for (int n = 0; n < 2; ++n) of_part[n] = at(8 * n + lane() / 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) of_rows[i] = at(8 * (i / 2) + 2 * (lane() % 4) + i % 2);
    }
  };
  /// Of rows of_rows columns output_column(4 q, ...) .. + 3 for this lane's g = 2t + e.
  struct PartnerRows {
    uint2 at[width / 32][4];

    __device__ __forceinline__ PartnerRows(const Reader& rows, const PartnerIds& id) {
#pragma unroll
      for (int i = 0; i < width / 8; ++i)
        at[i / 4][i % 4] = rows.template load<uint2>(id.of_rows[i % 4], i / 4);
    }
  };

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
  __device__ __forceinline__ void add_to_sums(const float (&sum)[tiles][width / 8][4],
                                              const std::uint32_t (&own_id)[2 * tiles], int own_count) const {
    float* sums = p.sums + (head * p.own_x.tokens + begin) * p.own_x.width + RowPair::first_column();
    RowPair rows[2 * tiles];
#pragma unroll
    for (int m = 0; m < 2 * tiles; ++m) {
      const auto row = [&](int odd) -> float* {
        const std::uint32_t id = __shfl_sync(0xFFFFFFFFu, own_id[m], lane() / 8 * 8 + 4 * odd);
        if (8 * m + lane() / 8 * 2 + odd >= own_count) return nullptr;
        return sums + std::uint64_t{id} * static_cast<std::uint32_t>(p.own_x.width);
      };
      rows[m] = {row(0), row(1)};
    }
    const auto add = [&](auto alone) {
#pragma unroll
      for (int i = 0; i < tiles * width / 16; ++i) {
        const int m = i / (width / 32), q = i % (width / 32);
        rows[m].template add<alone>(sum[m / 2], q, m % 2 * 2, p.own_x.width);
      }
    };
    if (in_order)
      add(std::true_type{});
    else
      add(std::false_type{});
  }
};

}  // namespace tern::kernels::crowded
