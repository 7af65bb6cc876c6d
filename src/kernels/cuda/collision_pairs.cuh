// Pairs of crowded buckets on tensor cores: one warp, few own rows, any number of partners. Rows come to the
// warp's share of shared memory behind the computation, 16 partners at a time.
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

  /// Of 32 columns.
  __device__ __forceinline__ static int first_column() {
    const int t = static_cast<int>(threadIdx.x) % 4;
    return (is_odd_row() ? 16 : 0) + t % 2 * 8 + t / 2 * 4;
  }

  /// Adds a lane's elements u and u + 1 of tiles 4 q .. 4 q + 3 (warp_products.cuh), columns 32 q + .. Lanes
  /// exchange them first: two neighbours, so that each has four columns in a row, then two rows, so that eight
  /// lanes add a whole line of 128 bytes at once.
  template <bool alone, int tiles>
  __device__ __forceinline__ void add(const float (&sum)[tiles][4], int q, int u, int width) const {
    const bool is_odd_lane = threadIdx.x % 2 == 1;
    float four[2][4];  // columns 16 h + first_column() % 16 .. + 3
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto &low = sum[4 * q + 2 * h], &high = sum[4 * q + 2 * h + 1];
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const float other = exchange(is_odd_lane ? low[u + v] : high[u + v], 1);
        four[h][v] = is_odd_lane ? other : low[u + v];
        four[h][2 + v] = is_odd_lane ? high[u + v] : other;
      }
    }
    float even_sum[4], odd_sum[4];
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const float other = exchange(is_odd_row() ? four[0][v] : four[1][v], 4);
      even_sum[v] = is_odd_row() ? other : four[0][v];
      odd_sum[v] = is_odd_row() ? four[1][v] : other;
    }
    if (32 * q + first_column() >= width) return;
    if (even != nullptr) add_columns<alone>(even + 32 * q, even_sum);
    if (odd != nullptr) add_columns<alone>(odd + 32 * q, odd_sum);
  }

 private:
  __device__ __forceinline__ static bool is_odd_row() { return threadIdx.x / 4 % 2 == 1; }
  __device__ __forceinline__ static float exchange(float x, int distance) {
    return __shfl_xor_sync(0xFFFFFFFFu, x, distance);
  }
};

/// A warp's rows in shared memory, padded to `width` columns with zeros; up to `own_tiles` tiles of 16 own
/// rows.
template <int columns, bool exact, int own_tiles>
struct PairTiles {
  static constexpr int width = columns, tiles = own_tiles, rows = 16;  ///< of a tile, and of a stage
  static constexpr bool is_exact = exact;
  static constexpr std::uint32_t own_rows = rows * tiles;
  static constexpr int stages = width > 64 && is_exact ? 1 : 2;
  // 16 bytes of padding: eight neighbouring rows start in different banks
  static constexpr int stride = width + 8;
  bfloat16 own_y[rows * tiles * stride], own_x[is_exact ? rows * tiles * stride : 8];
  bfloat16 y[stages][rows * stride], x[stages][rows * stride];
};

template <int width, bool is_exact>
using LightTiles = PairTiles<width, is_exact, 1>;
/// Two tiles of own rows where registers allow.
template <int width, bool is_exact>
using PieceTiles = PairTiles<width, is_exact, (width > 64 || is_exact) ? 1 : 2>;

/// own_i += scale * sum_j (y_i . y_j) w x_j for two runs of rows.
template <class Tiles, class Id>
struct PairProducts {
  static constexpr int width = Tiles::width, most_tiles = Tiles::tiles;
  static constexpr bool is_exact = Tiles::is_exact;
  static constexpr std::uint32_t own_rows = Tiles::own_rows;
  using Run = RowRun<Id>;

  const CrowdedPairs<bfloat16, Id>& p;
  Tiles& memory;
  int begin, head;
  float scale;
  bool in_order;  ///< nobody else adds to these rows now

  /// Ids of a run's own rows and of its first partners, one for each lane; behind the last row its id.
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
  static constexpr int stride = Tiles::stride, stages = Tiles::stages;
  using Fragment = std::uint32_t[4];

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % warp_lanes; }
  __device__ __forceinline__ static std::uint32_t id_of(const Run& run, std::uint32_t first) {
    return run.row(min(first + threadIdx.x % warp_lanes, run.count - 1));
  }

  /// What a lane copies of rows: 16 bytes of each.
  struct Source {
    static constexpr int packs = width / 8, together = warp_lanes / packs;
    const char* from;
    std::uint32_t stride;  ///< bytes
    bool is_inside;

    __device__ __forceinline__ Source(const PairProducts& of, const Heads<const bfloat16>& rows)
        : from(reinterpret_cast<const char*>(row_of(rows, of.begin, of.head) + lane() % packs * 8)),
          stride(static_cast<std::uint32_t>(rows.token_stride) * 2),
          is_inside(lane() % packs * 8 < rows.width) {}
    /// Starts to copy row `id` to row `row` of `to`, or zeros.
    __device__ __forceinline__ void copy(bfloat16* to, int row, std::uint32_t id, bool is_row) const {
      copy_ahead<16>(shared_address(to + row * PairProducts::stride + lane() % packs * 8),
                     from + std::uint64_t{id} * stride, is_inside && is_row);
    }
  };
  /// Starts to copy `rows` rows of those whose ids the lanes hold, from lane `first` on; zeros from row `count`
  /// on.
  template <int rows>
  __device__ __forceinline__ static void copy_rows(const Source& y, bfloat16* to_y, const Source& x,
                                                   bfloat16* to_x, std::uint32_t ids, int first, int count) {
    std::uint32_t id[rows / Source::together];
#pragma unroll
    for (int i = 0; i < rows / Source::together; ++i)
      id[i] = __shfl_sync(0xFFFFFFFFu, ids, first + i * Source::together + lane() / Source::packs);
#pragma unroll
    for (int i = 0; i < rows / Source::together; ++i) {
      const int row = i * Source::together + lane() / Source::packs;
      y.copy(to_y, row, id[i], row < count);
      if (to_x != nullptr) x.copy(to_x, row, id[i], row < count);
    }
  }

  /// Copies the partners to the stages, 16 after 16.
  struct Partners {
    Source y, x;
    const Run& run;
    std::uint32_t ids, next_ids;  ///< of 32 rows
    int copied = 0, steps;

    __device__ __forceinline__ Partners(const PairProducts& of, const Run& partners, std::uint32_t first_ids)
        : y(of, of.p.partner_y),
          x(of, of.p.partner_x),
          run(partners),
          ids(first_ids),
          next_ids(load_ids(1)),
          steps(static_cast<int>((partners.count + Tiles::rows - 1) / Tiles::rows)) {}
    __device__ __forceinline__ std::uint32_t load_ids(int batch) const {
      const auto first = static_cast<std::uint32_t>(batch * warp_lanes);
      return first < run.count ? id_of(run, first) : 0;
    }
    __device__ __forceinline__ void copy_next(Tiles& memory) {
      if (copied < steps) {
        if (copied > 0 && copied % 2 == 0) {
          ids = next_ids;
          next_ids = load_ids(copied / 2 + 1);
        }
        const int stage = copied % stages;
        copy_rows<Tiles::rows>(y, memory.y[stage], x, memory.x[stage], ids, copied % 2 * Tiles::rows,
                               static_cast<int>(run.count) - copied * Tiles::rows);
        ++copied;
      }
      commit_copies();
    }
  };

  template <int tiles>
  __device__ __forceinline__ void multiply(int own_count, const Run& run, const Ids& ids) const {
    const Source own_y_rows(*this, p.own_y), own_x_rows(*this, p.own_x);
    copy_rows<Tiles::rows * tiles>(own_y_rows, memory.own_y, own_x_rows, is_exact ? memory.own_x : nullptr,
                                   ids.own, 0, own_count);
    Partners partners(*this, run, ids.partner);
#pragma unroll
    for (int s = 0; s < stages; ++s) partners.copy_next(memory);
    wait_copies<stages - 1>();
    __syncwarp();
    float sum[tiles][width / 8][4] = {};
    Fragment own_y[tiles][width / 16], own_x[is_exact ? tiles : 1][width / 16];
    load_own(memory.own_y, own_y);
    if constexpr (is_exact) load_own(memory.own_x, own_x);
#pragma unroll 1
    for (int s = 0; s < partners.steps; ++s) {
      const bfloat16 *y = memory.y[s % stages], *x = memory.x[s % stages];
      float products[tiles][2][4];
      row_products(own_y, y, products);
      if constexpr (is_exact) {
        float cosines[tiles][2][4];
        row_products(own_x, x, cosines);
#pragma unroll
        for (int i = 0; i < 8 * tiles; ++i)
          products[i / 8][i / 4 % 2][i % 4] *= scale * exact_weight(cosines[i / 8][i / 4 % 2][i % 4]);
      }
      add_partner_rows(sum, products, x);
      __syncwarp();
      partners.copy_next(memory);
      wait_copies<stages - 1>();
      __syncwarp();
    }
    add_to_sums<tiles>(sum, ids.own, own_count);
  }

  template <int tiles>
  __device__ __forceinline__ static void load_own(const bfloat16* rows, Fragment (&own)[tiles][width / 16]) {
#pragma unroll
    for (int i = 0; i < tiles * width / 16; ++i) {
      const int tile = i / (width / 16), u = i % (width / 16);
      load_matrices(own[tile][u],
                    shared_address(rows + (16 * tile + lane() % 16) * stride + 16 * u + lane() / 16 * 8));
    }
  }

  /// sum[row][partner] = products of own rows with 16 partners.
  template <int tiles>
  __device__ __forceinline__ static void row_products(const Fragment (&own)[tiles][width / 16],
                                                      const bfloat16* rows, float (&sum)[tiles][2][4]) {
#pragma unroll
    for (int i = 0; i < 8 * tiles; ++i) sum[i / 8][i / 4 % 2][i % 4] = 0;
#pragma unroll
    for (int u = 0; u < width / 16; ++u) {
      Fragment b;
      load_matrices(
          b, shared_address(rows + (lane() % 8 + lane() / 16 * 8) * stride + 16 * u + lane() / 8 % 2 * 8));
#pragma unroll
      for (int i = 0; i < tiles; ++i) {
        add_product(sum[i][0], own[i][u], b[0], b[1]);
        add_product(sum[i][1], own[i][u], b[2], b[3]);
      }
    }
  }

  /// sum += gains of 16 partners times their x.
  template <int tiles>
  __device__ __forceinline__ static void add_partner_rows(float (&sum)[tiles][width / 8][4],
                                                          const float (&gains)[tiles][2][4],
                                                          const bfloat16* rows) {
    Fragment gain[tiles];
#pragma unroll
    for (int i = 0; i < 4 * tiles; ++i) {
      const auto& pair = gains[i / 4][i % 4 / 2];
      gain[i / 4][i % 4] = pack_pair(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
    }
#pragma unroll
    for (int n = 0; n < width / 16; ++n) {
      Fragment b;
      load_matrices_transposed(b, shared_address(rows + lane() % 16 * stride + 16 * n + lane() / 16 * 8));
#pragma unroll
      for (int i = 0; i < tiles; ++i) {
        add_product(sum[i][2 * n], gain[i], b[0], b[1]);
        add_product(sum[i][2 * n + 1], gain[i], b[2], b[3]);
      }
    }
  }

  template <int tiles>
  __device__ __forceinline__ void add_to_sums(const float (&sum)[tiles][width / 8][4], std::uint32_t own_ids,
                                              int own_count) const {
    float* sums = p.sums + (head * p.own_x.tokens + begin) * p.own_x.width + RowPair::first_column();
    RowPair rows[2 * tiles];
#pragma unroll
    for (int m = 0; m < 2 * tiles; ++m) {
      const auto row = [&](int odd) -> float* {
        const int i = 8 * m + lane() / 8 * 2 + odd;
        const std::uint32_t id = __shfl_sync(0xFFFFFFFFu, own_ids, i);
        return i < own_count ? sums + std::uint64_t{id} * static_cast<std::uint32_t>(p.own_x.width) : nullptr;
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
