// Positive random features in bfloat16 on tensor cores. Deterministic: maxima do not depend on their order. A
// block takes 128 rows, a warp 16 of them; the exponents are computed again where the shift is known, which
// costs less than keeping them. Cost tokens * heads * features * width products; memory is read and written
// once.
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/random_features.cuh"
#include "kernels/cuda/random_features.h"
#include "kernels/cuda/sequence_product_tiles.cuh"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256, block_rows = threads_per_block / warp_lanes * 16;
constexpr int pairs = product_tile / 8;  ///< fragments of 8 columns in a tile

/// Copies a tile of 64 columns from `column` on; row(i) points to row i's column 0 or is null.
template <int rows, class Row>
__device__ __forceinline__ void copy_rows(bfloat16* to, int column, int width, const bfloat16* any,
                                          const Row& row) {
#pragma unroll
  for (int i = 0; i < rows * tile_packs / threads_per_block; ++i) {
    const int pack = i * threads_per_block + static_cast<int>(threadIdx.x), r = pack / tile_packs,
              place = pack % tile_packs * 8;
    const bfloat16* from = row(r);
    const bool is_inside = from != nullptr && column + place < width;
    copy_ahead<16>(shared_address(to + r * tile_stride + place), is_inside ? from + column + place : any,
                   is_inside);
  }
}

struct FeatureTiles {
  __align__(128) bfloat16 rows[block_rows * tile_stride];
  bfloat16 results[block_rows * tile_stride], directions[product_tile * tile_stride];
};

/// The exponents' products of 64 features from `feature` on, for the rows of a warp.
class RowProductsOfFeatures {
 public:
  __device__ RowProductsOfFeatures(const PositiveFeatures<bfloat16>& in, FeatureTiles& tiles, std::int64_t rows)
      : in_(in), tiles_(tiles), rows_(rows), first_(std::int64_t{blockIdx.x} * block_rows) {}

  __device__ __forceinline__ void operator()(int feature, float (&sums)[pairs][4]) {
    const int warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16;
#pragma unroll
    for (int n = 0; n < pairs; ++n) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0;
    for (int depth = 0; depth < in_.x.width; depth += product_tile) {
      __syncthreads();
      if (!is_loaded_ || in_.x.width > product_tile) load_rows_at(depth);
      copy_rows<product_tile>(tiles_.directions, depth, in_.x.width, in_.directions, [&](int r) {
        return feature + r < in_.count ? in_.directions + std::int64_t{feature + r} * in_.x.width : nullptr;
      });
      commit_copies();
      wait_copies<0>();
      __syncthreads();
      if (!has_squares_) add_squares(warp_row);
#pragma unroll
      for (int k = 0; k < product_tile; k += 16) {
        std::uint32_t a[4];
        load_rows(a, tiles_.rows, warp_row, k);
#pragma unroll
        for (int n = 0; n < pairs / 2; ++n) {
          std::uint32_t b[4];
          load_columns_transposed(b, tiles_.directions, k, n * 16);
          add_product(sums[2 * n], a, b[0], b[1]);
          add_product(sums[2 * n + 1], a, b[2], b[3]);
        }
      }
    }
    if (!has_squares_) {
#pragma unroll
      for (int half = 0; half < 2; ++half) squares_[half] = warp_sum(squares_[half], 4);
    }
    has_squares_ = true;
    const auto scale = static_cast<float>(in_.scale);
#pragma unroll
    for (int n = 0; n < pairs; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] = scale * sums[n][i] - 0.5f * scale * scale * squares_[i / 2];
  }

  /// Largest exponent of the lane's rows g and g + 8, over all features.
  __device__ __forceinline__ void find_tops(float (&tops)[2]) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
    tops[0] = tops[1] = -INFINITY;
    for (int feature = 0; feature < in_.count; feature += product_tile) {
      float sums[pairs][4];
      (*this)(feature, sums);
#pragma unroll
      for (int n = 0; n < pairs; ++n)
        if (feature + 8 * n + column < in_.count) {
#pragma unroll
          for (int i = 0; i < 4; ++i) tops[i / 2] = fmaxf(tops[i / 2], sums[n][i]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) tops[half] = warp_max(tops[half], 4);
  }

 private:
  __device__ __forceinline__ void load_rows_at(int depth) {
    copy_rows<block_rows>(tiles_.rows, depth, in_.x.width, in_.x.data, [&](int r) -> const bfloat16* {
      if (first_ + r >= rows_) return nullptr;
      const FlatRow row = flat_row(first_ + r, in_.x.heads);
      return row_of(in_.x, row.token, row.head);
    });
    is_loaded_ = true;
  }
  /// A lane adds 16 of the 64 columns of its two rows.
  __device__ __forceinline__ void add_squares(int warp_row) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Pack<bfloat16, 8> items =
            load_pack<8>(tiles_.rows + (warp_row + lane / 4 + 8 * half) * tile_stride + lane % 4 * 8 + 32 * i);
#pragma unroll
        for (int c = 0; c < 8; ++c)
          squares_[half] += to_accumulate(items.item[c]) * to_accumulate(items.item[c]);
      }
  }

  const PositiveFeatures<bfloat16>& in_;
  FeatureTiles& tiles_;
  std::int64_t rows_, first_;
  bool is_loaded_ = false, has_squares_ = false;
  float squares_[2] = {};
};

__global__ void __launch_bounds__(threads_per_block)
    raise_tops(Sequences sequences, PositiveFeatures<bfloat16> in, std::uint32_t* tops) {
  __shared__ FeatureTiles tiles;
  const std::int64_t rows = std::int64_t{sequences.offsets[sequences.count]} * in.x.heads;
  float found[2];
  RowProductsOfFeatures(in, tiles, rows).find_tops(found);
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t row =
      std::int64_t{blockIdx.x} * block_rows + threadIdx.x / warp_lanes * 16 + lane / 4 + lane % 4 * 8;
  if (lane % 4 < 2 && row < rows)
    atomicMax(tops + top_place(sequences, flat_row(row, in.x.heads), in.x.heads),
              ordered_bits(lane % 4 == 0 ? found[0] : found[1]));
}

__global__ void __launch_bounds__(threads_per_block)
    write_features(Sequences sequences, PositiveFeatures<bfloat16> in, const std::uint32_t* tops, bfloat16* y) {
  __shared__ FeatureTiles tiles;
  const std::int64_t used = std::int64_t{sequences.offsets[sequences.count]} * in.x.heads,
                     rows = in.x.tokens * in.x.heads, first = std::int64_t{blockIdx.x} * block_rows;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16;
  RowProductsOfFeatures products(in, tiles, used);
  float shift[2] = {};
  if (!in.is_key) {
    products.find_tops(shift);
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (const std::int64_t row = first + warp_row + lane / 4 + 8 * half; row < used)
        shift[half] = from_ordered_bits(tops[top_place(sequences, flat_row(row, in.x.heads), in.x.heads)]);
  }
  for (int feature = 0; feature < in.count; feature += product_tile) {
    float sums[pairs][4];
    products(feature, sums);
    // a warp writes and reads no results but its own
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + lane / 4 + 8 * half;
      const bool is_used = first + row < used;
      const auto value = [&](float exponent) {
        return is_used ? __expf(exponent - shift[half]) + static_cast<float>(in.stabilizer) : 0.0f;
      };
#pragma unroll
      for (int n = 0; n < pairs; ++n)
        *reinterpret_cast<std::uint32_t*>(tiles.results + row * tile_stride + 8 * n + lane % 4 * 2) =
            pack_pair(value(sums[n][2 * half]), value(sums[n][2 * half + 1]));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * tile_packs / warp_lanes; ++i) {
      const int pack = i * warp_lanes + lane, row = warp_row + pack / tile_packs, place = pack % tile_packs * 8;
      if (first + row < rows && feature + place < in.count)
        store_pack(y + (first + row) * in.count + feature + place,
                   load_pack<8>(tiles.results + row * tile_stride + place));
    }
  }
}

/// g of a pair of features, and its sum.
__device__ __forceinline__ std::uint32_t slope_pair(std::uint32_t y, std::uint32_t dy, float stabilizer,
                                                    float& total) {
  const float first = first_of(dy) * (first_of(y) - stabilizer),
              second = second_of(dy) * (second_of(y) - stabilizer);
  total += first + second;
  return pack_pair(first, second);
}

/// Block (x, y): 128 rows, columns 64 y .. 64 y + 63 of dx.
__global__ void __launch_bounds__(threads_per_block)
    features_backward(PositiveFeatures<bfloat16> in, const bfloat16* y, const bfloat16* dy, bfloat16* dx) {
  __shared__ FeatureTiles tiles;
  const std::int64_t rows = in.x.tokens * in.x.heads, first = std::int64_t{blockIdx.x} * block_rows;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16,
            column = static_cast<int>(blockIdx.y) * product_tile;
  const auto stabilizer = static_cast<float>(in.stabilizer), scale = static_cast<float>(in.scale);
  float sums[pairs][4] = {}, totals[2] = {};
  for (int feature = 0; feature < in.count; feature += product_tile) {
    __syncthreads();
    const auto packed = [&](const bfloat16* from) {
      return [=](int r) { return first + r < rows ? from + (first + r) * in.count : nullptr; };
    };
    copy_rows<block_rows>(tiles.rows, feature, in.count, y, packed(y));
    copy_rows<block_rows>(tiles.results, feature, in.count, dy, packed(dy));
    copy_rows<product_tile>(tiles.directions, column, in.x.width, in.directions, [&](int r) {
      return feature + r < in.count ? in.directions + std::int64_t{feature + r} * in.x.width : nullptr;
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < product_tile; k += 16) {
      std::uint32_t values[4], slopes[4];
      load_rows(values, tiles.rows, warp_row, k);
      load_rows(slopes, tiles.results, warp_row, k);
#pragma unroll
      for (int i = 0; i < 4; ++i) slopes[i] = slope_pair(values[i], slopes[i], stabilizer, totals[i % 2]);
#pragma unroll
      for (int n = 0; n < pairs / 2; ++n) {
        std::uint32_t b[4];
        load_columns(b, tiles.directions, k, n * 16);
        add_product(sums[2 * n], slopes, b[0], b[1]);
        add_product(sums[2 * n + 1], slopes, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float factor = scale * scale * warp_sum(totals[half], 4);
    const int row = warp_row + lane / 4 + 8 * half;
    const FlatRow place = flat_row(first + row < rows ? first + row : 0, in.x.heads);
    const bfloat16* x = row_of(in.x, place.token, place.head);
#pragma unroll
    for (int n = 0; n < pairs; ++n) {
      const int c = column + 8 * n + lane % 4 * 2;
      // rows outside all sequences may hold anything
      const bool has_own = in.is_key && c < in.x.width && factor != 0;
      const std::uint32_t own = has_own ? *reinterpret_cast<const std::uint32_t*>(x + c) : 0;
      *reinterpret_cast<std::uint32_t*>(tiles.rows + row * tile_stride + 8 * n + lane % 4 * 2) =
          pack_pair(scale * sums[n][2 * half] - factor * first_of(own),
                    scale * sums[n][2 * half + 1] - factor * second_of(own));
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * tile_packs / warp_lanes; ++i) {
    const int pack = i * warp_lanes + lane, row = warp_row + pack / tile_packs, place = pack % tile_packs * 8;
    if (first + row < rows && column + place < in.x.width)
      store_pack(dx + (first + row) * in.x.width + column + place,
                 load_pack<8>(tiles.rows + row * tile_stride + place));
  }
}

unsigned blocks_of(const PositiveFeatures<bfloat16>& in) {
  return static_cast<unsigned>((in.x.tokens * in.x.heads + block_rows - 1) / block_rows);
}

}  // namespace

bool fits_feature_tiles(const PositiveFeatures<bfloat16>& in, const void* y) {
  return rows_are_packed(in.x) && in.count % 8 == 0 && is_aligned(16, y, in.directions);
}

void raise_tops_tiled(Cuda& cuda, const Sequences& sequences, const PositiveFeatures<bfloat16>& in,
                      std::uint32_t* tops) {
  raise_tops<<<blocks_of(in), threads_per_block, 0, cuda.stream>>>(sequences, in, tops);
  check_launch("positive_features: tops");
}

void write_features_tiled(Cuda& cuda, const Sequences& sequences, const PositiveFeatures<bfloat16>& in,
                          const std::uint32_t* tops, bfloat16* y) {
  write_features<<<blocks_of(in), threads_per_block, 0, cuda.stream>>>(sequences, in, tops, y);
  check_launch("positive_features");
}

void positive_features_backward_tiled(Cuda& cuda, const PositiveFeatures<bfloat16>& in, const bfloat16* y,
                                      const bfloat16* dy, bfloat16* dx) {
  const dim3 grid(blocks_of(in), static_cast<unsigned>((in.x.width + product_tile - 1) / product_tile));
  features_backward<<<grid, threads_per_block, 0, cuda.stream>>>(in, y, dy, dx);
  check_launch("positive_features_backward");
}

}  // namespace tern::kernels
