// Attention over an AttentionPattern in bfloat16 on tensor cores (compute capability 8.0 and later), forward
// and backward, from the parts of exact attention (attention_products.cuh). Deterministic: one pass of blocks
// owns queries (dq), another owns keys (dk, dv); each row belongs to one warp.
//
// Cost for each pair of tokens in visible tiles and head: 4 (forward) + 14 (backward) x width flops and an
// exponential in each of the three passes.
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/row_statistics.cuh"
#include "kernels/cuda/sparse_attention_tiles.cuh"

namespace tern::kernels {
namespace {

struct SparseForward {
  SparseArguments common;
  Heads<bfloat16> y;
  float* log_sums;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    attend_sparse(const __grid_constant__ SparseForward arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  const SparseArguments& in = arguments.common;
  const SparseBlock block(in, Shape::slices);
  if (block.place.sequence < 0) {
    if (block.slice > 0) return;
    clear_spare(in.sequences, block.place, block.head, arguments.y);
    clear_spare_sums(in.sequences, block.place, block.head, in.q.heads, arguments.log_sums);
    return;
  }
  const TiledPattern pattern(in.options.pattern, RowSide::queries, block.place.length, block.head);
  const std::uint32_t query_tile = shared_address_of(memory), tiles = query_tile + Shape::rows_bytes;
  copy_sparse_tile<Shape>(query_tile, in, in.q, block, pattern, block.place.tile);
  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  StationaryRows<Shape> queries(query_tile);
  bool is_kept = false;
  typename Shape::Outputs out;
  clear_outputs<Shape>(out);
  RowStatistics<Shape> rows{{-INFINITY, -INFINITY}, {0, 0}};
  walk<Shape>(
      pattern, block.place, in.sequences.position + block.place.begin,
      [&](int side, int tile) {
        copy_sparse_tile<Shape>(tiles + 2 * side * Shape::tile_bytes, in, in.k, block, pattern, tile);
        copy_sparse_tile<Shape>(tiles + (2 * side + 1) * Shape::tile_bytes, in, in.v, block, pattern, tile);
      },
      [&](int side, const SparseTile& tile) {
        const std::uint32_t keys = tiles + 2 * side * Shape::tile_bytes, values = keys + Shape::tile_bytes;
        if (!is_kept) queries.keep();
        is_kept = true;
        if (block_row<Shape>(0, 0) / 16 * 16 >= tile.used_rows) return;
#pragma unroll 1
        for (int c = 0; c * Shape::chunk < tile.used_columns; ++c) {
          typename Shape::Products s;
          typename Shape::Weights weights;
          multiply<Shape>(s, queries, keys + c * Shape::chunk * Shape::row_bytes, column_lane);
          hide<Shape>(s, pattern, in.options, tile, c * Shape::chunk);
          rows.weigh(s, out, weights);
          accumulate<Shape>(out, weights, values + c * Shape::chunk * Shape::row_bytes, row_lane, block.slice);
        }
      });
  const AttentionPlace place = block.rows(pattern);
  float factor[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = row_sum(rows.sum[half]);
    const int row = place.first + block_row<Shape>(0, half);
    factor[0][half] = sum == 0 ? 0.0f : 1 / sum;
    if (threadIdx.x % 4 == 0 && row < place.length && block.slice == 0)
      arguments.log_sums[std::int64_t{place.begin + row} * in.q.heads + block.head] =
          (rows.top[half] + log2f(sum)) * ln_2;
  }
  store_rows<Shape>(out, factor, place, arguments.y);
}

struct SparseBackward {
  SparseArguments common;
  Heads<const bfloat16> dy;
  const float *log_sums, *dots;  ///< [tokens, heads]
  AttentionGradients<bfloat16> out;
};

/// Of a tile of queries: 2^(score - shift) are weights, weight (slope - dot) gradients of scores.
struct QueryNumbers {
  float shift[tile_tokens], dot[tile_tokens];

  /// By the first 64 threads.
  __device__ __forceinline__ void load(const SparseBackward& arguments, const SparseBlock& block,
                                       const TiledPattern& pattern, int tile) {
    const int row = static_cast<int>(threadIdx.x);
    if (row >= tile_tokens) return;
    const int token = block.place.begin + pattern.first(tile) + min(row, pattern.tokens(tile) - 1);
    const std::int64_t at = std::int64_t{token} * arguments.common.q.heads + block.head;
    const float log_sum = arguments.log_sums[at];
    shift[row] = log_sum == -INFINITY ? 0.0f : log_sum * log2_e;  // a row that sees nothing
    dot[row] = arguments.dots[at];
  }
};

/// From the products of a chunk, which begins at column `first` of its tile, to packed weights and gradients of
/// the scores.
template <class Shape, bool keys_resident>
__device__ __forceinline__ void differentiate(const QueryNumbers& queries, int first,
                                              typename Shape::Products& s, typename Shape::Products& slopes,
                                              typename Shape::Weights& weights,
                                              typename Shape::Weights& packed_slopes) {
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int query = keys_resident ? first + product_column<Shape>(u, i) : product_row<Shape>(u, i);
      float &weight = s[u][i / 4][i % 4], &slope = slopes[u][i / 4][i % 4];
      weight = power_of_two(weight - queries.shift[query]);
      slope = weight * (slope - queries.dot[query]);
    }
    if constexpr (keys_resident) weights[u] = pack_fragment(s[u]);
    packed_slopes[u] = pack_fragment(slopes[u]);
  }
}

/// dk and dv of a block's keys against the queries that see them (`keys_resident`), or dq of its queries.
template <class Shape, bool keys_resident>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    differentiate_sparse(const __grid_constant__ SparseBackward arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ QueryNumbers numbers[2];  // of the streamed queries in turn; of the resident ones the first
  const SparseArguments& in = arguments.common;
  const auto& [dq, dk, dv] = arguments.out;
  const Heads<const bfloat16>& own = keys_resident ? in.k : in.q;
  const Heads<const bfloat16>& own_slopes = keys_resident ? in.v : arguments.dy;
  const Heads<const bfloat16>& other = keys_resident ? in.q : in.k;
  const Heads<const bfloat16>& other_slopes = keys_resident ? arguments.dy : in.v;
  const SparseBlock block(in, Shape::slices);
  if (block.place.sequence < 0) {
    if (block.slice > 0) return;
    clear_spare(in.sequences, block.place, block.head, keys_resident ? dk : dq);
    if (keys_resident) clear_spare(in.sequences, block.place, block.head, dv);
    return;
  }
  const TiledPattern pattern(in.options.pattern, keys_resident ? RowSide::keys : RowSide::queries,
                             block.place.length, block.head);
  const std::uint32_t row_tile = shared_address_of(memory), slope_tile = row_tile + Shape::rows_bytes,
                      tiles = slope_tile + Shape::rows_bytes;
  copy_sparse_tile<Shape>(row_tile, in, own, block, pattern, block.place.tile);
  copy_sparse_tile<Shape>(slope_tile, in, own_slopes, block, pattern, block.place.tile);
  if (!keys_resident) numbers[0].load(arguments, block, pattern, block.place.tile);
  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  StationaryRows<Shape> rows(row_tile), slope_rows(slope_tile);
  bool is_kept = false;
  typename Shape::Outputs sums, value_sums;
  clear_outputs<Shape>(sums);
  clear_outputs<Shape>(value_sums);
  walk<Shape>(
      pattern, block.place, in.sequences.position + block.place.begin,
      [&](int side, int tile) {
        const std::uint32_t to = tiles + 2 * side * Shape::tile_bytes;
        copy_sparse_tile<Shape>(to, in, other, block, pattern, tile);
        copy_sparse_tile<Shape>(to + Shape::tile_bytes, in, other_slopes, block, pattern, tile);
        if (keys_resident) numbers[side].load(arguments, block, pattern, tile);
      },
      [&](int side, const SparseTile& tile) {
        if (!is_kept) {
          rows.keep();
          slope_rows.keep();
        }
        is_kept = true;
        if (block_row<Shape>(0, 0) / 16 * 16 >= tile.used_rows) return;
#pragma unroll 1
        for (int c = 0; c * Shape::chunk < tile.used_columns; ++c) {
          const std::uint32_t chunk =
              tiles + 2 * side * Shape::tile_bytes + c * Shape::chunk * Shape::row_bytes;
          typename Shape::Products s, slopes;
          typename Shape::Weights weights, packed_slopes;
          multiply<Shape>(s, rows, chunk, column_lane);
          multiply<Shape>(slopes, slope_rows, chunk + Shape::tile_bytes, column_lane);
          hide<Shape>(s, pattern, in.options, tile, c * Shape::chunk);
          differentiate<Shape, keys_resident>(numbers[keys_resident ? side : 0], c * Shape::chunk, s, slopes,
                                              weights, packed_slopes);
          if constexpr (keys_resident)
            accumulate<Shape>(value_sums, weights, chunk + Shape::tile_bytes, row_lane, block.slice);
          accumulate<Shape>(sums, packed_slopes, chunk, row_lane, block.slice);
        }
      });
  const AttentionPlace place = block.rows(pattern);
  const float scale = static_cast<float>(in.options.scale);
  const float factor[1][2] = {{scale, scale}}, one[1][2] = {{1, 1}};
  store_rows<Shape>(sums, factor, place, keys_resident ? dk : dq);
  if constexpr (keys_resident) store_rows<Shape>(value_sums, one, place, dv);
}

template <class Kernel, class Arguments>
void launch(Cuda& cuda, Kernel kernel, const Arguments& arguments, int slices, int threads, int memory,
            const char* name) {
  const SparseArguments& common = arguments.common;
  const unsigned blocks =
      sparse_blocks(common.sequences, {common.options.pattern.block}, common.q.heads, slices);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, memory), name);
  kernel<<<blocks, static_cast<unsigned>(threads), static_cast<std::size_t>(memory), cuda.stream>>>(arguments);
  check_launch(name);
}

/// Calls run(shape) with the one that suits the head's width. In narrow heads `groups` of 16 columns are
/// multiplied at a time, and `blocks` share a multiprocessor's registers (one less from 33 columns on).
template <int groups, int blocks, class Run>
void with_shape(int width, Run run) {
  require(width <= widest_head,
          "sparse_attention in bfloat16: heads must have at most {} columns, got {}; use more heads or "
          "run.precision=float32",
          widest_head, width);
  if (width <= 32)
    run(AttentionShape<32, 1, groups, 4, tile_tokens, blocks>{});
  else if (width <= 64)
    run(AttentionShape<64, 1, groups, 4, tile_tokens, blocks - 1>{});
  else if (width <= 128)
    run(AttentionShape<128, 1, 2, 4, tile_tokens, 1, false>{});
  else
    run(AttentionShape<256, 1, 2, 4, tile_tokens, 1, false>{});
}

SparseArguments arguments_of(const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                             const SparseOptions& options) {
  return {sequences, in.q, in.k, in.v, options, has_packs(in.q) && has_packs(in.k) && has_packs(in.v)};
}

}  // namespace

template <>
void sparse_attention_forward<bfloat16>(Cuda& cuda, const Sequences& sequences,
                                        const AttentionInputs<bfloat16>& in, const SparseOptions& options,
                                        Heads<bfloat16> y, float* log_sums) {
  if (sequences.tokens == 0 || y.heads == 0) return;
  with_shape<4, 4>(y.width, [&]<class Shape>(Shape) {
    launch(cuda, attend_sparse<Shape>, SparseForward{arguments_of(sequences, in, options), y, log_sums},
           Shape::slices, Shape::threads, Shape::rows_bytes + 2 * streamed_tiles<Shape> * Shape::tile_bytes,
           "sparse_attention forward");
  });
}

template <>
void sparse_attention_backward<bfloat16>(Cuda& cuda, const Sequences& sequences,
                                         const AttentionInputs<bfloat16>& in, const SparseOptions& options,
                                         const SparseResult<bfloat16>& result,
                                         const SparseSlopes<bfloat16>& slopes,
                                         const AttentionGradients<bfloat16>& out) {
  if (sequences.tokens == 0 || in.q.heads == 0) return;
  const Scratch<float> dots(cuda, in.q.heads * in.q.tokens);
  launch_sparse_dots<bfloat16>(cuda, result, slopes, dots.data());
  SparseBackward arguments{arguments_of(sequences, in, options), slopes.dy, result.log_sums, dots.data(), out};
  arguments.common.by_packs = arguments.common.by_packs && has_packs(slopes.dy);
  with_shape<2, 3>(in.q.width, [&]<class Shape>(Shape) {
    constexpr int memory = 2 * Shape::rows_bytes + 2 * streamed_tiles<Shape> * Shape::tile_bytes;
    launch(cuda, differentiate_sparse<Shape, false>, arguments, Shape::slices, Shape::threads, memory,
           "sparse_attention backward of queries");
    launch(cuda, differentiate_sparse<Shape, true>, arguments, Shape::slices, Shape::threads, memory,
           "sparse_attention backward of keys");
  });
}

}  // namespace tern::kernels
