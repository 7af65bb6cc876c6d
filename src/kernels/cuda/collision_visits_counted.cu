// Gradients over the pairs of whole sequences on tensor cores, compute capability 8.0 and later. A block owns
// 128 rows, a warp 32 of them with their sums in registers. Chunk by chunk of the partners it counts, in bytes
// of shared memory, the hashes in which rows collide (collision_counts.cuh); then partners' rows pass by:
//   S = own_y partner_y^T, W = S * C, dx += W partner_x, dy += C partner_y.
// Deterministic: each row belongs to one warp, which visits its partners in order. Cost: 4 width flops a pair,
// 6 width with dy. W is rounded to bfloat16, counts are exact.
#include "kernels/cuda/attention_products.cuh"
#include "kernels/cuda/collision_visits_counted.cuh"
#include "kernels/cuda/row_scaling.cuh"

namespace tern::kernels {
namespace {

template <int width, int columns, int blocks, int counted_>
struct CountShape : AttentionShape<width, 2, 1, 4, columns, blocks> {
  using Base = AttentionShape<width, 2, 1, 4, columns, blocks>;
  static constexpr int counted = counted_;  ///< partners of a chunk
  static constexpr int run = 64;            ///< partners whose counts a lane loads at once
  using Counts = CountTile<Base::rows, counted, Base::threads>;
  static constexpr int counts_bytes = Counts::counts_bytes + Counts::scratch_bytes;
  static constexpr int memory = counts_bytes + 4 * Base::tile_bytes;
  static_assert(counted % columns == 0 && columns % run == 0 && Base::rows_bytes <= counts_bytes);
};

/// Row of tile `tile`, counted in the block: rows lie in their order.
template <class Shape>
__device__ __forceinline__ int lane_row(int tile, int half) {
  return static_cast<int>(threadIdx.x) / warp_lanes * Shape::warp_rows + 16 * tile + 8 * half +
         static_cast<int>(threadIdx.x) % warp_lanes / 4;
}

template <class Shape>
__device__ __forceinline__ void store_row(const typename Shape::Outputs& x, int tile, int half, float factor,
                                          bfloat16* to) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int c = 0; c < Shape::outputs / 8; ++c)
    *reinterpret_cast<std::uint32_t*>(to + 8 * c + 2 * t) =
        pack_bfloat16(x[tile][c][2 * half] * factor, x[tile][c][2 * half + 1] * factor);
}

/// Completes and writes a warp's rows.
template <class Shape, bool has_dy>
__device__ __forceinline__ void finish(const CountedVisits& p, const AttentionPlace& place,
                                       typename Shape::Outputs& dx, typename Shape::Outputs& dy) {
  constexpr int sums = Shape::width / 2;
  const bool meets_crowded = has_crowded(p.collisions.crowded);
  const float scale = p.scale * weight_unit;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int tile = i / 2, half = i % 2, row = place.first + lane_row<Shape>(tile, half);
    const std::int64_t token = place.begin + row;
    const bool is_row = row < place.length;
    auto& x_sums = reinterpret_cast<float(&)[sums]>(dx[tile]);
    if (is_row && meets_crowded) {
      add_crowded_weights(p, token, place.head, half, x_sums);
      if constexpr (has_dy)
        add_crowded_values(p, place.begin, token, place.head, half, reinterpret_cast<float(&)[sums]>(dy[tile]));
    }
    if (p.norm.data != nullptr)
      pass_row_scaling(is_row ? row_of(p.own_x, token, place.head) : nullptr,
                       is_row ? *row_of(p.norm, token, place.head) : 0.0f, half, x_sums);
    if (!is_row) continue;
    store_row<Shape>(dx, tile, half, scale, row_of(p.dx, token, place.head));
    if constexpr (has_dy) store_row<Shape>(dy, tile, half, p.value_scale, row_of(p.dy, token, place.head));
  }
}

/// The partners' rows of a step: x, then y.
template <class Shape>
__device__ __forceinline__ void copy_step(std::uint32_t tile, const RowSource& x, const RowSource& y,
                                          int first) {
  copy_columns<Shape>(tile, x, first);
  copy_columns<Shape>(tile + Shape::tile_bytes, y, first);
}

/// Zeros for rows that belong to no sequence.
template <class Shape>
__device__ __forceinline__ void clear_tile(const Heads<bfloat16>& rows, const AttentionPlace& place) {
  const int count = min(Shape::rows, place.length - place.first);
  for (int i = static_cast<int>(threadIdx.x); i < count * Shape::width; i += Shape::threads)
    row_of(rows, std::int64_t{place.begin} + place.first + i / Shape::width, place.head)[i % Shape::width] = {};
}

template <class Shape, bool has_dy>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    visit_counted(const __grid_constant__ CountedVisits p, const hopper::WorkItem* items, int place_bits) {
  extern __shared__ __align__(1024) std::byte memory[];
  const hopper::WorkItem item = items[blockIdx.x];
  if (item.length == 0) return;
  const AttentionPlace place = place_of(item, static_cast<int>(blockIdx.y));
  if (place.sequence < 0) {
    clear_tile<Shape>(p.dx, place);
    if constexpr (has_dy) clear_tile<Shape>(p.dy, place);
    return;
  }
  const auto source = [&](const Heads<const bfloat16>& rows) {
    return RowSource{row_of(rows, place.begin, place.head), rows.token_stride, place.length, rows.width, true};
  };
  const RowSource x = source(p.partner_x), y = source(p.partner_y);
  const std::uint32_t own_tile = shared_address_of(memory);
  std::uint32_t tile = own_tile + Shape::counts_bytes, other = tile + 2 * Shape::tile_bytes;
  copy_tile<Shape::width, Shape::rows, Shape::threads>(own_tile, source(p.own_y), place.first);
  copy_step<Shape>(tile, x, y, 0);
  StationaryRows<Shape> own(own_tile);
  wait_copies();
  __syncthreads();
  own.keep();
  __syncthreads();  // counts take the place of the rows

  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  const bool has_rows =
      place.first + lane_row<Shape>(0, 0) / Shape::warp_rows * Shape::warp_rows < place.length;
  auto* const counts_memory = reinterpret_cast<unsigned char*>(memory);
  const typename Shape::Counts tile_counts{counts_memory, counts_memory + Shape::Counts::counts_bytes};
  const CountSource words = count_source(p, place_bits);
  typename Shape::Outputs dx, dy;
  clear_outputs<Shape>(dx);
  if constexpr (has_dy) clear_outputs<Shape>(dy);
  for (int column = 0; column < place.length; column += Shape::columns) {
    if (column % Shape::counted == 0) {
      if (column > 0) __syncthreads();
      tile_counts.build(words, place, static_cast<std::uint32_t>(column));
    }
    wait_copies();
    __syncthreads();
    if (column + Shape::columns < place.length) copy_step<Shape>(other, x, y, column + Shape::columns);
#pragma unroll 1
    for (int run = 0; has_rows && run < min(Shape::columns, place.length - column); run += Shape::run) {
      uint4 counts[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        counts[i / 2][i % 2] =
            tile_counts.load(lane_row<Shape>(i / 2, i % 2), (column % Shape::counted + run) / Shape::run);
#pragma unroll
      for (int g = 0; g < Shape::run / 16; ++g) {
        const std::uint32_t chunk = tile + (run + 16 * g) * Shape::row_bytes;
        typename Shape::Products s;
        multiply<Shape>(s, own, chunk + Shape::tile_bytes, column_lane);
        typename Shape::Weights weights;
#pragma unroll
        for (int m = 0; m < Shape::row_tiles; ++m)
          weigh(s[m][0], word_of(counts[m][0], g), word_of(counts[m][1], g), weights[m].word);
        accumulate<Shape>(dx, weights, chunk, row_lane, 0);
        if constexpr (has_dy) {
#pragma unroll
          for (int m = 0; m < Shape::row_tiles; ++m)
            weights[m] = count_fragment(word_of(counts[m][0], g), word_of(counts[m][1], g));
          accumulate<Shape>(dy, weights, chunk + Shape::tile_bytes, row_lane, 0);
        }
      }
    }
    const std::uint32_t next = other;
    other = tile;
    tile = next;
  }
  finish<Shape, has_dy>(p, place, dx, dy);
}

template <class Shape, bool has_dy>
void launch(Cuda& cuda, const CountedVisits& p, const hopper::TilePlan& plan) {
  static_assert(Shape::rows == counted_own_rows);
  const auto kernel = visit_counted<Shape, has_dy>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::memory),
             "collision_gradients: shared memory");
  const dim3 grid(static_cast<unsigned>(plan.count), static_cast<unsigned>(p.dx.heads));
  kernel<<<grid, Shape::threads, Shape::memory, cuda.stream>>>(p, plan.items.data(),
                                                               CountWord::place_bits(p.sequences.longest));
  check_launch("collision_gradients: visit_counted");
}

template <class Shape>
void launch(Cuda& cuda, const CountedVisits& p, const hopper::TilePlan& plan) {
  return p.dy.data != nullptr ? launch<Shape, true>(cuda, p, plan) : launch<Shape, false>(cuda, p, plan);
}

}  // namespace

bool fits_counted_partners(const Cuda& cuda, const Sequences& sequences, int hashes, int bits, int width) {
  constexpr int rows_for_each_hash = 64;  // counted: with more, visits of listed partners move fewer bytes
  return (width == 32 || width == 64) && cuda.shared_memory >= CountShape<64, 64, 2, 512>::memory &&
         hashes <= most_weighted_hashes && sequences.longest <= rows_for_each_hash * hashes &&
         words_fit(cuda, sequences, hashes, bits, true);
}

void visit_partners_counted(Cuda& cuda, const CountedVisits& visits, const hopper::TilePlan& plan) {
  if (visit_counted_hopper(cuda, visits, plan)) return;
  if (visits.dx.width == 32) return launch<CountShape<32, 128, 2, 512>>(cuda, visits, plan);
  ensure(visits.dx.width == 64, "visit_partners_counted: {} columns", visits.dx.width);
  launch<CountShape<64, 64, 2, 512>>(cuda, visits, plan);
}

}  // namespace tern::kernels
