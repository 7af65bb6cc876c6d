// Forward pass of bfloat16 attention on tensor cores (compute capability 8.0 and later): 4 width flops a score.
// Deterministic: each row belongs to one warp, which visits the keys in order.
//
// Softmax rows are shifted by the maximum of their first chunk only. Weights are floating numbers, so a row
// needs a new shift only when its weights threaten to overflow; each chunk's sums tell.
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {
namespace {

struct ForwardArguments {
  AttentionArguments common;
  Heads<bfloat16> out;
  float* lse;
};

/// A row's weights of one chunk may not sum to more than this in any lane.
constexpr float sum_limit = 0x1p60f;

template <class Shape>
struct SoftmaxRows {
  float shift[Shape::row_tiles][2], sum[Shape::row_tiles][2];

  __device__ __forceinline__ SoftmaxRows() {
#pragma unroll
    for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
      shift[i / 2][i % 2] = -INFINITY;
      sum[i / 2][i % 2] = 0;
    }
  }

  /// Shifts by the maximum of the products `s` if it exceeds the shift so far.
  __device__ __forceinline__ void raise(const typename Shape::Products& s, float scale,
                                        typename Shape::Outputs& out) {
#pragma unroll
    for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
      const int m = i / 2, half = i % 2;
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < Shape::groups * 4; ++j)
        largest = fmaxf(largest, scale * s[j / 4 * Shape::row_tiles + m][j / 2 % 2][2 * half + j % 2]);
      const float raised = fmaxf(shift[m][half], row_max(largest));
      const float factor = power_of_two(shift[m][half] - raised);
      shift[m][half] = raised;
      sum[m][half] *= factor;
#pragma unroll
      for (int n = 0; n < Shape::outputs / 8; ++n) {
        out[m][n][2 * half] *= factor;
        out[m][n][2 * half + 1] *= factor;
      }
    }
  }

  /// The weights of a chunk as packed operands and their sums; returns the largest sum.
  __device__ __forceinline__ float weigh(const typename Shape::Products& s, float scale,
                                         typename Shape::Weights& weights,
                                         float (&chunk_sum)[Shape::row_tiles][2]) const {
#pragma unroll
    for (int i = 0; i < 2 * Shape::row_tiles; ++i) chunk_sum[i / 2][i % 2] = 0;
#pragma unroll
    for (int u = 0; u < Shape::blocks16; ++u) {
      const int m = Shape::row_tile(u);
      float p[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        p[i / 4][i % 4] = power_of_two(fmaf(scale, s[u][i / 4][i % 4], -shift[m][i % 4 / 2]));
        chunk_sum[m][i % 4 / 2] += p[i / 4][i % 4];
      }
      weights[u] = pack_fragment(p);
    }
    float largest = 0;
#pragma unroll
    for (int i = 0; i < 2 * Shape::row_tiles; ++i) largest += chunk_sum[i / 2][i % 2];
    return largest;
  }
};

/// Products with keys from `count` of the chunk on weigh nothing.
template <class Shape>
__device__ __forceinline__ void mask_keys(typename Shape::Products& s, int count, float scale) {
  const float nothing = scale < 0 ? INFINITY : -INFINITY;
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = 16 * Shape::group(u) + 8 * (i / 4) + 2 * (static_cast<int>(threadIdx.x) % 4) + i % 2;
      if (key >= count) s[u][i / 4][i % 4] = nothing;
    }
  }
}

template <class Shape>
__device__ __forceinline__ void softmax_chunk(typename Shape::Products& s, float scale, bool is_first,
                                              int keys_left, SoftmaxRows<Shape>& rows,
                                              typename Shape::Outputs& out, typename Shape::Weights& weights) {
  if (keys_left < Shape::chunk) mask_keys<Shape>(s, keys_left, scale);
  float sum[Shape::row_tiles][2];
  if (is_first) rows.raise(s, scale, out);
  const float largest = rows.weigh(s, scale, weights, sum);
  if (__any_sync(0xFFFFFFFFu, largest > sum_limit)) {
    rows.raise(s, scale, out);
    rows.weigh(s, scale, weights, sum);
  }
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) rows.sum[i / 2][i % 2] += sum[i / 2][i % 2];
}

template <class Shape>
__device__ __forceinline__ void bernoulli_chunk(typename Shape::Products& s, int bits,
                                                typename Shape::Weights& weights) {
  collision_weights(reinterpret_cast<typename Shape::FlatProducts&>(s), bits);
#pragma unroll
  for (int u = 0; u < Shape::blocks16; ++u) weights[u] = pack_fragment(s[u]);
}

/// Divides by the sums and writes the rows.
template <Scores scores, class Shape>
__device__ __forceinline__ void finish(const ForwardArguments& arguments, const AttentionPlace& place,
                                       SoftmaxRows<Shape>& rows, const typename Shape::Outputs& out) {
  float factor[Shape::row_tiles][2];
#pragma unroll
  for (int i = 0; i < 2 * Shape::row_tiles; ++i) {
    const int m = i / 2, half = i % 2, row = place.first + block_row<Shape>(m, half);
    factor[m][half] = 1;
    if constexpr (scores != Scores::bernoulli) {
      const float sum = row_sum(rows.sum[m][half]);
      factor[m][half] = arguments.common.rule.keep_scale / sum;
      if (threadIdx.x % 4 == 0 && row < place.length && place.slice == 0)
        arguments.lse[place.head * arguments.common.sequences.tokens + place.begin + row] =
            (rows.shift[m][half] + log2f(sum)) * 0.69314718056f;
    }
  }
  store_rows<Shape>(out, factor, place, arguments.out);
}

template <Scores scores, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    attention_forward(const __grid_constant__ ForwardArguments arguments) {
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ PlaceScratch place_scratch;
  const AttentionArguments& in = arguments.common;
  const AttentionPlace place =
      find_place<Shape::rows, Shape::threads>(in.sequences, in.q.heads, Shape::slices, in.slots, place_scratch);
  if (place.sequence < 0) {
    clear_rows<Shape::rows, Shape::threads>(place, arguments.out);
    if (arguments.lse != nullptr) clear_row_values<Shape::rows>(place, in.sequences.tokens, arguments.lse);
    return;
  }
  const RowSource keys = key_source(in, in.k, place), values = key_source(in, in.v, place);
  const std::uint32_t query_tile = shared_address_of(memory), tiles = query_tile + Shape::rows_bytes;
  copy_rows<Shape>(query_tile, row_source(in, in.q, place), place.first);
  copy_columns<Shape>(tiles, keys, 0);
  copy_columns<Shape>(tiles + Shape::tile_bytes, values, 0);

  using Layout = TileLayout<Shape::width>;
  const std::uint32_t row_lane = Layout::row_lane(), column_lane = Layout::column_lane();
  const int warp_row = place.first + static_cast<int>(threadIdx.x) / 32 * Shape::warp_rows;
  StationaryRows<Shape> queries(query_tile);
  typename Shape::Outputs out;
  clear_outputs<Shape>(out);
  SoftmaxRows<Shape> rows;
  const auto draws = weight_draws<scores, false, Shape::row_tiles>(in.rule, in.sequences.sample, place.sequence,
                                                                   place.head, warp_row);
  std::uint32_t tile = tiles, other = tiles + 2 * Shape::tile_bytes;
  for (int key = 0; key < keys.valid; key += Shape::columns) {
    wait_copies();
    __syncthreads();
    if (key + Shape::columns < keys.valid) {
      copy_columns<Shape>(other, keys, key + Shape::columns);
      copy_columns<Shape>(other + Shape::tile_bytes, values, key + Shape::columns);
    }
    if (key == 0) queries.keep();
    const auto add = [&](typename Shape::Products& s, int c, auto keys_left) {
      typename Shape::Weights weights;
      [[maybe_unused]] KeptBits kept[Shape::groups][Shape::row_tiles];
      if constexpr (scores == Scores::dropped_softmax)  // first: long chains that other work can hide
#pragma unroll
        for (int g = 0; g < Shape::groups; ++g) draws.draw(in.rule, key + c * Shape::chunk + 16 * g, kept[g]);
      if constexpr (scores == Scores::bernoulli)
        bernoulli_chunk<Shape>(s, in.rule.bits, weights);
      else
        softmax_chunk<Shape>(s, in.rule.exponent_scale, c == 0 && key == 0, keys_left, rows, out, weights);
      if constexpr (scores == Scores::dropped_softmax)
#pragma unroll
        for (int u = 0; u < Shape::blocks16; ++u)
          draws.drop(weights[u], kept[Shape::group(u)][Shape::row_tile(u)]);
      accumulate<Shape>(out, weights, tile + Shape::tile_bytes + c * Shape::chunk * Shape::row_bytes, row_lane,
                        place.slice);
    };
    if (warp_row < place.length)
      visit_pipelined<Shape>(
          keys.valid - key,
          [&](typename Shape::Products& s, int c) {
            multiply<Shape>(s, queries, tile + c * Shape::chunk * Shape::row_bytes, column_lane);
          },
          add);
    const std::uint32_t next = other;
    other = tile;
    tile = next;
  }
  finish<scores, Shape>(arguments, place, rows, out);
}

template <Scores scores, class Shape>
void launch(Cuda& cuda, const AttentionTask& task, Heads<bfloat16> out, float* lse) {
  const ForwardArguments arguments{attention_arguments<Shape>(task), out, lse};
  constexpr int memory = Shape::rows_bytes + 4 * Shape::tile_bytes;
  launch_attention<Shape>(cuda, attention_forward<scores, Shape>, arguments, memory, "attention_forward");
}

}  // namespace

void launch_attention_forward(Cuda& cuda, const AttentionTask& task, Heads<bfloat16> out, float* lse) {
  with_scores(task.scores, [&]<Scores scores>(std::integral_constant<Scores, scores>) {
    const int width = task.in.q.width;
    if (width <= 32)
      launch<scores, AttentionShape<32, 2, 1, 4, 128, 3>>(cuda, task, out, lse);
    else if (width <= 64)
      launch<scores, AttentionShape<64, 2, scores == Scores::softmax ? 2 : 1, 4, 64, 2>>(cuda, task, out, lse);
    else if (width <= 128)
      launch<scores, AttentionShape<128, 1, 2, 4, 64, 2>>(cuda, task, out, lse);
    else
      launch<scores, AttentionShape<256, 1, 2, 2, 32, 1, false>>(cuda, task, out, lse);
  });
}

}  // namespace tern::kernels
