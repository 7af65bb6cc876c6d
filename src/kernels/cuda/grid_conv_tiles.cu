// Convolution over tokens and columns on tensor cores, forward and dx: bfloat16 pictures, float32 sums, sm_80
// and later. Deterministic. Products are filters times places, [16 outputs] x [16 inputs], for each tap and 8
// columns. Filters are split in two bfloat16, so that their rounding is of order 2^-17. Places lie by columns
// in shared memory, so that a tap moves whole rows of it. Cost: one read of the picture for each 16 outputs,
// one write of y.
#include "kernels/cuda/grid_conv_tiles.cuh"

namespace tern::kernels {
namespace {

constexpr int strip_tokens = 32;  ///< of a block, tile by tile, with the same filters in registers
/// Distances of rows in shared memory: eight successive ones begin in different banks.
constexpr int place_stride = channels + 8, result_stride = tile_columns + 8;
constexpr int parts = 2;  ///< of a filter: rounded, and what that lost

/// Element 8 i of a row of channel `channel`, zeros beyond the picture's borders.
__device__ __forceinline__ Pack<bfloat16, 8> load_or_zero(const Heads<const bfloat16>& x, std::int64_t token,
                                                          int channel, int column) {
  const bool is_inside = token >= 0 && token < x.tokens && channel < x.heads && column < x.width;
  return is_inside ? load_pack<8>(row_of(x, token, channel) + column) : Pack<bfloat16, 8>{};
}

/// Left operands of one tap for 16 outputs and 16 inputs: [output chunk, input chunk, tap, part, lane].
__global__ void __launch_bounds__(threads_per_block)
    split_filters(GridFilters<float> filters, bool is_turned, int outputs, int inputs, uint4* fragments) {
  const int output_chunks = (outputs + channels - 1) / channels,
            input_chunks = (inputs + channels - 1) / channels;
  const std::int64_t count = std::int64_t{output_chunks} * input_chunks * grid_taps * warp_lanes;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const int lane = static_cast<int>(i % warp_lanes), tap = static_cast<int>(i / warp_lanes % grid_taps);
    const int chunk = static_cast<int>(i / warp_lanes / grid_taps);
    const auto weight = [&](int output, int input) {
      if (output >= outputs || input >= inputs) return 0.0f;
      const std::int64_t filter = is_turned ? std::int64_t{input} * filters.inputs + output
                                            : std::int64_t{output} * filters.inputs + input;
      return filters.weight[filter * grid_taps + (is_turned ? grid_taps - 1 - tap : tap)];
    };
    std::uint32_t high[4], low[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int output = chunk / input_chunks * channels + lane / 4 + k % 2 * 8,
                input = chunk % input_chunks * channels + lane % 4 * 2 + k / 2 * 8;
      const float first = weight(output, input), second = weight(output, input + 1);
      high[k] = pack_pair(first, second);
      low[k] = pack_pair(first - first_of(high[k]), second - second_of(high[k]));
    }
    uint4* const to = fragments + (i / warp_lanes * parts) * warp_lanes + lane;
    to[0] = make_uint4(high[0], high[1], high[2], high[3]);
    to[warp_lanes] = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

/// A warp's filters for 16 outputs and 16 inputs.
using Fragments = std::uint32_t[grid_taps][parts][4];
__device__ __forceinline__ void load_filters(Fragments& filters, const uint4* from) {
#pragma unroll
  for (int tap = 0; tap < grid_taps; ++tap)
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const uint4 words = from[(tap * parts + part) * warp_lanes + static_cast<int>(threadIdx.x) % warp_lanes];
      filters[tap][part][0] = words.x;
      filters[tap][part][1] = words.y;
      filters[tap][part][2] = words.z;
      filters[tap][part][3] = words.w;
    }
}

/// Place (row, column) of a tile and the ones around it holds 16 channels: row 0 is the token before the tile,
/// column 0 the column before it.
constexpr int place_columns = tile_columns + 2;
__device__ __forceinline__ bfloat16* place_at(bfloat16* places, int row, int column) {
  return places + (row * place_columns + column) * place_stride;
}

struct TileArguments {
  Sequences sequences;
  Heads<const bfloat16> x;
  bool of_relu;  ///< relu(x) is filtered
  int outputs;
  const uint4* fragments;
  const float* bias;
  Heads<const bfloat16> before;  ///< y is 0 where this, if it has data, is not positive: the gradient of a relu
  bfloat16* y;
};

/// Copies 16 channels from `channel` on; a thread turns 8 columns of two channels.
__device__ __forceinline__ void stage_places(const TileArguments& in, std::int64_t first, int tile_column,
                                             int channel, bfloat16* places) {
  constexpr int pairs = channels / 2, packs = tile_columns / 8;
  const Heads<const bfloat16>& x = in.x;
  for (int i = static_cast<int>(threadIdx.x); i < pairs * place_rows * packs; i += threads_per_block) {
    const int pair = i % pairs * 2, row = i / pairs % place_rows, column = i / pairs / place_rows * 8;
    const std::int64_t token = first - 1 + row;
    const Pack<bfloat16, 8> low = load_or_zero(x, token, channel + pair, tile_column + column),
                            high = load_or_zero(x, token, channel + pair + 1, tile_column + column);
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const std::uint32_t both = std::uint32_t{low.item[c].bits} | std::uint32_t{high.item[c].bits} << 16;
      *reinterpret_cast<std::uint32_t*>(place_at(places, row, column + c + 1) + pair) =
          in.of_relu ? relu_pair(both) : both;
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < channels * place_rows * 2; i += threads_per_block) {
    const int own = i % channels, row = i / channels % place_rows;
    const bool is_left = i < channels * place_rows;
    const std::int64_t token = first - 1 + row;
    const int column = is_left ? tile_column - 1 : tile_column + tile_columns;
    const bool is_inside =
        token >= 0 && token < x.tokens && channel + own < x.heads && column >= 0 && column < x.width;
    const bfloat16 value = is_inside ? row_of(x, token, channel + own)[column] : bfloat16{};
    place_at(places, row, is_left ? 0 : place_columns - 1)[own] =
        in.of_relu && to_accumulate(value) <= 0 ? bfloat16{} : value;
  }
}

/// Of a warp's token: 16 outputs and 64 columns, in fragments of 8 columns.
using TokenSums = float[tile_columns / 8][4];

__device__ __forceinline__ void start_sums(const float* bias, int output, int outputs, TokenSums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int own = output + lane / 4 + 8 * half;
    const float start = bias != nullptr && own < outputs ? bias[own] : 0.0f;
#pragma unroll
    for (int n = 0; n < tile_columns / 8; ++n) sums[n][2 * half] = sums[n][2 * half + 1] = start;
  }
}

__device__ __forceinline__ void add_taps(const TokenPlace& place, const Fragments& filters, bfloat16* places,
                                         TokenSums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
#pragma unroll
  for (int tap = 0; tap < grid_taps; ++tap) {
    if (!place.is_near[tap / 3]) continue;
#pragma unroll
    for (int n = 0; n < tile_columns / 16; ++n) {
      const int column = tap % 3 + 16 * n + lane % 8 + lane / 16 * 8;
      std::uint32_t b[4];
      load_matrices(b, shared_address(place_at(places, warp + tap / 3, column) + lane / 8 % 2 * 8));
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        add_product(sums[2 * n], filters[tap][part], b[0], b[1]);
        add_product(sums[2 * n + 1], filters[tap][part], b[2], b[3]);
      }
    }
  }
}

/// Results of a token: of `outputs` outputs and `columns` columns from those at y and `before` on.
struct TokenResults {
  bfloat16* y;
  const bfloat16* before;
  int outputs, columns;
  std::int64_t stride, before_stride;  ///< between outputs
};
/// By way of `results`, a warp's shared memory, so that 16 bytes go out at a time.
__device__ __forceinline__ void store_sums(const TokenSums& sums, const TokenResults& to, bfloat16* results) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int n = 0; n < tile_columns / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(results + (lane / 4 + 8 * half) * result_stride + 8 * n +
                                        lane % 4 * 2) = pack_pair(sums[n][2 * half], sums[n][2 * half + 1]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < channels * tile_columns / 8 / warp_lanes; ++i) {
    const int pack = i * warp_lanes + lane, row = pack / (tile_columns / 8),
              column = pack % (tile_columns / 8) * 8;
    if (row >= to.outputs || column >= to.columns) continue;
    Pack<bfloat16, 8> items = load_pack<8>(results + row * result_stride + column);
    if (to.before != nullptr) {
      const Pack<bfloat16, 8> before = load_pack<8>(to.before + row * to.before_stride + column);
#pragma unroll
      for (int c = 0; c < 8; ++c)
        if (to_accumulate(before.item[c]) <= 0) items.item[c] = bfloat16{};
    }
    store_pack(to.y + row * to.stride + column, items);
  }
}

/// Block (x, y): a strip of tokens and 64 columns, 16 outputs.
__global__ void __launch_bounds__(threads_per_block, 2) filter_tiles(TileArguments in) {
  __shared__ __align__(128) bfloat16 places[place_rows * place_columns * place_stride];
  static_assert(sizeof places >= tile_tokens * channels * result_stride * sizeof(bfloat16));
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes, chunks = (in.x.heads + channels - 1) / channels,
            column_tiles = (in.x.width + tile_columns - 1) / tile_columns;
  const int tile_column = static_cast<int>(blockIdx.x) % column_tiles * tile_columns,
            output = static_cast<int>(blockIdx.y) * channels;
  const std::int64_t strip = std::int64_t{blockIdx.x} / column_tiles * strip_tokens,
                     end = min(strip + strip_tokens, in.x.tokens);
  Fragments filters;
#pragma unroll 1
  for (std::int64_t first = strip; first < end; first += tile_tokens) {
    const TokenPlace place = place_of(in.sequences, first + warp);
    TokenSums sums;
    start_sums(place.is_used ? in.bias : nullptr, output, in.outputs, sums);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      __syncthreads();
      stage_places(in, first, tile_column, chunk * channels, places);
      if (chunks > 1 || first == strip)
        load_filters(filters, in.fragments +
                                  (std::int64_t{blockIdx.y} * chunks + chunk) * grid_taps * parts * warp_lanes);
      __syncthreads();
      if (place.is_used) add_taps(place, filters, places, sums);
    }
    __syncthreads();
    if (place.token < in.x.tokens)
      store_sums(sums,
                 {in.y + (place.token * in.outputs + output) * in.x.width + tile_column,
                  in.before.data == nullptr ? nullptr : row_of(in.before, place.token, output) + tile_column,
                  in.outputs - output, in.x.width - tile_column, in.x.width, in.before.head_stride},
                 places + warp * channels * result_stride);
  }
}

/// Fills in the fragments.
void launch_filter(Cuda& cuda, const GridFilters<float>& filters, bool is_turned, TileArguments in) {
  const std::int64_t lanes =
      std::int64_t{pieces(in.outputs, channels)} * pieces(in.x.heads, channels) * grid_taps * warp_lanes;
  const Scratch<uint4> fragments(cuda, lanes * parts);
  split_filters<<<grid_for(cuda, lanes, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      filters, is_turned, in.outputs, in.x.heads, fragments.data());
  check_launch("grid_conv: filters");
  in.fragments = fragments.data();
  const dim3 grid(pieces(in.x.tokens, strip_tokens) * pieces(in.x.width, tile_columns),
                  pieces(in.outputs, channels));
  filter_tiles<<<grid, threads_per_block, 0, cuda.stream>>>(in);
  check_launch("grid_conv");
}

}  // namespace

void filter_tiled(Cuda& cuda, const Sequences& sequences, const Heads<const bfloat16>& x,
                  const GridFilters<float>& filters, const float* bias, bfloat16* y) {
  launch_filter(cuda, filters, false,
                {sequences, x, filters.of_relu, filters.outputs, nullptr, bias, Heads<const bfloat16>{}, y});
}

void filter_back_tiled(Cuda& cuda, const Sequences& sequences, const Heads<const bfloat16>& x,
                       const GridFilters<float>& filters, const Heads<const bfloat16>& dy, bfloat16* dx) {
  launch_filter(cuda, filters, true,
                {sequences, dy, false, filters.inputs, nullptr, nullptr,
                 filters.of_relu ? x : Heads<const bfloat16>{}, dx});
}

}  // namespace tern::kernels
