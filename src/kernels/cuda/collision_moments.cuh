// Moments of crowded buckets on tensor cores: a block builds M[y column][x column] = sum_j y_j x_j of a
// bucket's partners and adds y_i M to its own rows. Rows come to shared memory behind the computation.
#pragma once

#include "kernels/cuda/collision_pairs.cuh"

namespace tern::kernels::crowded {

/// Rows are padded to `width` columns with zeros. x columns are worked off `block` at a time.
template <int width>
struct MomentShape {
  static constexpr int warps = 4, threads = warps * warp_lanes;
  static constexpr int rows = 64;  ///< in shared memory at a time
  static constexpr int block = width < 64 ? width : 64;
  // 16 bytes of padding: eight neighbouring rows start in different banks
  static constexpr int y_stride = width + 8, x_stride = block + 8;
  static constexpr int row_tiles = width / 16, y_tiles = row_tiles > warps ? row_tiles / warps : 1;
  static constexpr int warps_of_rows = row_tiles / y_tiles;
  static constexpr int columns = block * warps_of_rows / warps;  ///< of M that one warp builds
};

template <int width>
struct MomentTiles {
  using Shape = MomentShape<width>;
  std::uint32_t id[3][Shape::rows];  ///< of the rows of a stage; ~0 where there is none
  bfloat16 y[2][Shape::rows * Shape::y_stride];
  bfloat16 x[2][Shape::rows * Shape::x_stride];
  bfloat16 moment[width * Shape::x_stride];  ///< [y column][x column of the block]
};

template <int width, class Id>
struct MomentProducts {
  using Shape = MomentShape<width>;
  using Run = RowRun<Id>;
  using Moment = float[Shape::y_tiles][Shape::columns / 8][4];

  const CrowdedPairs<bfloat16, Id>& p;
  MomentTiles<width>& tiles;
  int begin, head;
  bool in_order;  ///< nobody else adds to these rows now

  __device__ __forceinline__ static int warp() { return static_cast<int>(threadIdx.x) / warp_lanes; }
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % warp_lanes; }
  __device__ __forceinline__ static int first_y() {
    return warp() % Shape::warps_of_rows * 16 * Shape::y_tiles;
  }
  __device__ __forceinline__ static int first_x() { return warp() / Shape::warps_of_rows * Shape::columns; }

  /// Starts to copy the rows of stage `s`, `columns` columns from `column` on.
  template <int columns, int stride>
  __device__ __forceinline__ void copy(bfloat16* to, const Heads<const bfloat16>& rows, std::uint32_t s,
                                       int column) const {
    constexpr int packs = columns / 8, count = Shape::rows * packs / Shape::threads;
    const int c = static_cast<int>(threadIdx.x) % packs * 8;
    const bfloat16* from = row_of(rows, begin, head) + column + c;
#pragma unroll
    for (int u = 0; u < count; ++u) {
      const int r = (u * Shape::threads + static_cast<int>(threadIdx.x)) / packs;
      const std::uint32_t id = tiles.id[s % 3][r];
      const bool is_inside = id != ~0u && column + c < rows.width;
      copy_ahead<16>(shared_address(to + r * stride + c),
                     is_inside ? from + static_cast<std::int64_t>(id) * rows.token_stride : rows.data,
                     is_inside);
    }
  }

  /// The rows of the partners, then own rows, in stages of Shape::rows.
  struct Stages {
    Run partners, own;
    std::uint32_t of_partners, count;

    __device__ __forceinline__ Stages(const Run& partner_rows, const Run& own_rows)
        : partners(partner_rows),
          own(own_rows),
          of_partners((partner_rows.count + Shape::rows - 1) / Shape::rows),
          count(of_partners + (own_rows.count + Shape::rows - 1) / Shape::rows) {}
    /// Id of this thread's row of stage `s`.
    __device__ __forceinline__ std::uint32_t id(std::uint32_t s) const {
      const bool is_own = s >= of_partners;
      const std::uint32_t i = (is_own ? s - of_partners : s) * Shape::rows + threadIdx.x;
      if (threadIdx.x >= Shape::rows || i >= (is_own ? own.count : partners.count)) return ~0u;
      return is_own ? own.row(i) : partners.row(i);
    }
  };
  __device__ __forceinline__ void keep_id(std::uint32_t s, std::uint32_t id) const {
    if (threadIdx.x < Shape::rows) tiles.id[s % 3][threadIdx.x] = id;
  }
  __device__ __forceinline__ void copy_stage(const Stages& stages, std::uint32_t s, int column) const {
    const bool is_own = s >= stages.of_partners;
    copy<width, Shape::y_stride>(tiles.y[s % 2], is_own ? p.own_y : p.partner_y, s, 0);
    if (!is_own) copy<Shape::block, Shape::x_stride>(tiles.x[s % 2], p.partner_x, s, column);
    commit_copies();
  }

  /// Adds the partners to M, for x columns from `column` on, then y_i M to the sums of the own rows. Where
  /// there are no partners, M must lie in `tiles`.
  __device__ void run(const Stages& stages, int column, Moment& moment) const {
#pragma unroll
    for (int i = 0; i < Shape::y_tiles * Shape::columns / 2; ++i)
      moment[i / (Shape::columns / 2)][i / 4 % (Shape::columns / 8)][i % 4] = 0;
    keep_id(0, stages.id(0));
    keep_id(1, stages.id(1));
    __syncthreads();
    copy_stage(stages, 0, column);
    for (std::uint32_t s = 0; s < stages.count; ++s) {
      const std::uint32_t id = stages.id(s + 2);
      if (s + 1 < stages.count) {
        copy_stage(stages, s + 1, column);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      if (s >= stages.of_partners) {
        apply(tiles.y[s % 2], tiles.id[s % 3], column);
      } else {
        const std::uint32_t left = stages.partners.count - s * Shape::rows;
        add_rows(tiles.y[s % 2], tiles.x[s % 2], static_cast<int>(min(left, std::uint32_t{Shape::rows})),
                 moment);
        if (s + 1 == stages.of_partners && s + 1 < stages.count) keep(moment);
      }
      keep_id(s + 2, id);
      __syncthreads();
    }
  }

  __device__ __forceinline__ void add_rows(const bfloat16* y, const bfloat16* x, int count,
                                           Moment& moment) const {
    const int y_row = lane() % 8 + lane() / 16 * 8, y_column = first_y() + lane() / 8 % 2 * 8;
    const int x_row = lane() % 16, x_column = first_x() + lane() / 16 * 8;
#pragma unroll 1
    for (int k = 0; k < count; k += 16) {
      std::uint32_t a[Shape::y_tiles][4];
#pragma unroll
      for (int m = 0; m < Shape::y_tiles; ++m)
        load_matrices_transposed(a[m], shared_address(y + (k + y_row) * Shape::y_stride + y_column + 16 * m));
#pragma unroll
      for (int n = 0; n < Shape::columns / 16; ++n) {
        std::uint32_t b[4];
        load_matrices_transposed(b, shared_address(x + (k + x_row) * Shape::x_stride + x_column + 16 * n));
#pragma unroll
        for (int m = 0; m < Shape::y_tiles; ++m) {
          add_product(moment[m][2 * n], a[m], b[0], b[1]);
          add_product(moment[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  /// visit(y column, x column of the block, value) for this thread's elements, two neighbouring columns a
  /// call.
  template <class Visit>
  __device__ __forceinline__ void for_each(const Moment& moment, const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < Shape::y_tiles * Shape::columns / 4; ++i) {
      const int m = i / (Shape::columns / 4), n = i / 2 % (Shape::columns / 8), half = i % 2;
      visit(first_y() + 16 * m + lane() / 4 + 8 * half, first_x() + 8 * n + lane() % 4 * 2,
            moment[m][n][2 * half], moment[m][n][2 * half + 1]);
    }
  }

  __device__ __forceinline__ void keep(int y, int x, float first, float second) const {
    *reinterpret_cast<std::uint32_t*>(tiles.moment + y * Shape::x_stride + x) = pack_pair(first, second);
  }
  __device__ __forceinline__ void keep(const Moment& moment) const {
    for_each(moment, [&](int y, int x, float first, float second) { keep(y, x, first, second); });
  }

  /// Adds y_i M to the sums of up to 16 rows for each warp.
  __device__ __forceinline__ void apply(const bfloat16* y, const std::uint32_t* ids, int column) const {
    if (ids[16 * warp()] == ~0u) return;
    float sum[Shape::block / 8][4] = {};
    const int row = lane() % 16, c = lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < width; k += 16) {
      std::uint32_t a[4];
      load_matrices(a, shared_address(y + (16 * warp() + row) * Shape::y_stride + k + c));
#pragma unroll
      for (int n = 0; n < Shape::block / 16; ++n) {
        std::uint32_t b[4];
        load_matrices_transposed(b, shared_address(tiles.moment + (k + row) * Shape::x_stride + 16 * n + c));
        add_product(sum[2 * n], a, b[0], b[1]);
        add_product(sum[2 * n + 1], a, b[2], b[3]);
      }
    }
    if (in_order)
      add_to_sums<true>(sum, ids, column);
    else
      add_to_sums<false>(sum, ids, column);
  }

  template <bool alone>
  __device__ __forceinline__ void add_to_sums(const float (&sum)[Shape::block / 8][4], const std::uint32_t* ids,
                                              int column) const {
    const auto row = [&](int i) -> float* {
      const std::uint32_t id = ids[16 * warp() + i];
      if (id == ~0u) return nullptr;
      const std::int64_t token = begin + static_cast<std::int64_t>(id);
      return p.sums + (head * p.own_x.tokens + token) * p.own_x.width + column + RowPair::first_column();
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = 8 * half + lane() / 8 * 2;
      const RowPair rows{row(first), row(first + 1)};
#pragma unroll
      for (int q = 0; q < Shape::block / 32; ++q)
        rows.template add<alone>(sum, q, 2 * half, p.own_x.width - column);
    }
  }
};

}  // namespace tern::kernels::crowded
