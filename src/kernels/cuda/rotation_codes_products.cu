// Codes of bfloat16 rows by random rotations on tensor cores. Directions are bfloat16 numbers by definition, so
// products are exact; sums are float32 in a fixed order: deterministic. A warp keeps its rows in registers for
// all rounds of a head, meets the directions in tiles of eight and keeps the largest entry of each row in
// registers too: nothing but rows, directions and codes moves. Cost as in rotation_codes.cu.
#include "base/normal.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/rotation_codes.h"
#include "kernels/cuda/sequence_parts.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 128;
constexpr int warps_per_block = threads_per_block / warp_lanes;
constexpr int tile_columns = 8;  // directions of one product

/// What lane 4 g + t holds of one tile of directions in two steps of the depth, 32 columns of x: those from 8 t
/// on of direction g, or of a row. The order of the depth is free where both sides agree, and this one makes
/// them neighbours. Words 0 and 1 belong to the first step.
using Fragment = Pack<std::uint32_t, 4>;

/// Negated directions, [head, round][tile][pair of steps][lane].
struct FragmentPlan {
  int tiles, pairs;

  __host__ __device__ int of_tile() const { return pairs * warp_lanes; }
  __host__ __device__ std::int64_t of_list() const { return static_cast<std::int64_t>(tiles) * of_tile(); }
};

struct DirectionShape {
  int rounds, columns, width;
};

/// A thread draws half a fragment: four neighbours, which lie in one block of normals or two.
__global__ void __launch_bounds__(threads_per_block)
    draw_fragments(RandomStream stream, DirectionShape shape, FragmentPlan plan, std::int64_t halves,
                   Pack<std::uint32_t, 2>* fragments) {
  for (std::int64_t i = thread_index(); i < halves; i += grid_threads()) {
    const int lane = static_cast<int>(i / 2 % warp_lanes);
    const std::int64_t pair = i / 2 / warp_lanes, tile = pair / plan.pairs;
    const int depth = static_cast<int>(pair % plan.pairs) * 32 + lane % 4 * 8 + static_cast<int>(i % 2) * 4;
    const int column = static_cast<int>(tile % plan.tiles) * tile_columns + lane / 4;
    const auto list = static_cast<int>(tile / plan.tiles);
    const std::uint64_t block = rotation_block(list / shape.rounds, list % shape.rounds);
    const auto first = static_cast<std::uint64_t>(column) * static_cast<std::uint64_t>(shape.width) +
                       static_cast<std::uint64_t>(depth);
    float value[4] = {}, drawn[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (column >= shape.columns || depth + u >= shape.width) continue;
      const std::uint64_t element = first + static_cast<std::uint64_t>(u);
      const auto place = static_cast<int>(element % 4);
      if (u == 0 || place == 0) normals_of(stream.words(0, block + element / 4), drawn);
      value[u] = -(place < 2 ? (place == 0 ? drawn[0] : drawn[1]) : (place == 2 ? drawn[2] : drawn[3]));
    }
    fragments[i] = {pack_pair(value[0], value[1]), pack_pair(value[2], value[3])};
  }
}

/// The largest entry of [p; -p] that was met, from the negated products p. Its key orders them: |p|, then p > 0
/// before p < 0; of equal keys the first stays.
struct Largest {
  std::uint32_t key = 0;
  int column = 0;

  __device__ __forceinline__ void meet(float negated, int at) {
    const std::uint32_t bits = __float_as_uint(negated), other = __funnelshift_l(bits, bits, 1);
    if (other > key) key = other, column = at;
  }
  /// Of the four lanes that share the row.
  __device__ __forceinline__ void merge() {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, key, step);
      const int at = __shfl_xor_sync(0xFFFFFFFFu, column, step);
      if (other > key || (other == key && at < column)) key = other, column = at;
    }
  }
  /// A row of zero products gets the first code.
  __device__ __forceinline__ int code(int columns) const {
    if (key <= 1) return 0;
    return (key & 1) != 0 ? column : columns + column;
  }
};

struct ProductArguments {
  Sequences sequences;
  Heads<const bfloat16> x;
  RotationShape shape;
  FragmentPlan plan;
  const Fragment* fragments;
  int parts;       ///< of the batch, for a head
  bool is_packed;  ///< rows may be read 16 bytes at a time
  std::int32_t* codes;
};

template <bool is_packed>
__device__ __forceinline__ Fragment load_fragment(const bfloat16* row, int column, int width) {
  Fragment fragment{};
  if constexpr (is_packed) {
    if (column < width) fragment = load_pack<4>(reinterpret_cast<const std::uint32_t*>(row + column));
  } else {
#pragma unroll
    for (int u = 0; u < 8; ++u)
      if (column + u < width) fragment.item[u / 2] |= std::uint32_t{row[column + u].bits} << (u % 2 * 16);
  }
  return fragment;
}

/// A warp's rows: lane 4 g + t holds rows 2 (products g + m) and the next as rows g and g + 8 of product m.
template <int pairs, int products>
struct WarpRows {
  std::uint32_t a[products][2 * pairs][4];

  /// Rows from `first` on; those at `length` and beyond repeat the last one.
  template <bool is_packed>
  __device__ __forceinline__ void load(const Heads<const bfloat16>& x, std::int64_t begin, int head, int first,
                                       int length) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
    for (int i = 0; i < 2 * products; ++i) {
      const bfloat16* const row = row_of(x, begin + min(first + lane / 4 * 2 * products + i, length - 1), head);
#pragma unroll
      for (int pair = 0; pair < pairs; ++pair) {
        const Fragment fragment = load_fragment<is_packed>(row, 32 * pair + lane % 4 * 8, x.width);
#pragma unroll
        for (int word = 0; word < 4; ++word)
          a[i / 2][2 * pair + word / 2][word % 2 * 2 + i % 2] = fragment.item[word];
      }
    }
  }
  /// Meets the entries of one tile, of which those before column `columns` exist.
  __device__ __forceinline__ void meet(const Fragment (&b)[pairs], int tile, int columns,
                                       Largest (&largest)[2 * products]) const {
    float sum[products][4] = {};
#pragma unroll
    for (int step = 0; step < 2 * pairs; ++step) {
#pragma unroll
      for (int m = 0; m < products; ++m)
        add_product(sum[m], a[m][step], b[step / 2].item[step % 2 * 2], b[step / 2].item[step % 2 * 2 + 1]);
    }
    const int column = tile * tile_columns + static_cast<int>(threadIdx.x) % 4 * 2;
    const bool is_whole = (tile + 1) * tile_columns <= columns;
#pragma unroll
    for (int i = 0; i < 2 * products; ++i) {
#pragma unroll
      for (int u = 0; u < 2; ++u)
        if (is_whole || column + u < columns) largest[i].meet(sum[i / 2][i % 2 * 2 + u], column + u);
    }
  }
};

template <int pairs>
__device__ __forceinline__ void load_tile(const Fragment* from, Fragment (&b)[pairs]) {
#pragma unroll
  for (int pair = 0; pair < pairs; ++pair) b[pair] = from[pair * warp_lanes];
}

/// Zeros for rows of one bucket, and for rows outside all sequences.
__device__ void clear_codes(const ProductArguments& a, std::int64_t first, std::int64_t last, int head) {
  for (int round = 0; round < a.shape.rounds; ++round)
    for (std::int64_t token = first + threadIdx.x % warp_lanes; token < last; token += warp_lanes)
      a.codes[(static_cast<std::int64_t>(head) * a.shape.rounds + round) * a.x.tokens + token] = 0;
}

/// Warp: 16 * products rows of a sequence and head.
template <int pairs, int products>
__global__ void __launch_bounds__(threads_per_block, pairs <= 4 ? 4 : 3)
    find_codes_by_products(const __grid_constant__ ProductArguments a) {
  constexpr int rows = 16 * products, own_rows = (2 * products + 3) / 4;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * warps_per_block + threadIdx.x / warp_lanes;
  const auto head = static_cast<int>(index / a.parts);
  if (head >= a.x.heads) return;
  const SequencePart part = find_part(a.sequences, RowCut{rows}, static_cast<int>(index % a.parts));
  if (part.sequence < 0) {
    const std::int64_t first = spare_token(a.sequences, part, rows);
    return clear_codes(a, first, min(first + rows, a.x.tokens), head);
  }
  const int columns = a.shape.columns(part.length);
  if (columns == 0)
    return clear_codes(a, part.begin + part.first, part.begin + min(part.first + rows, part.length), head);
  WarpRows<pairs, products> x;
  if (a.is_packed)
    x.template load<true>(a.x, part.begin, head, part.first, part.length);
  else
    x.template load<false>(a.x, part.begin, head, part.first, part.length);
  const int tiles = (columns + tile_columns - 1) / tile_columns;
  for (int round = 0; round < a.shape.rounds; ++round) {
    const std::int64_t list = static_cast<std::int64_t>(head) * a.shape.rounds + round;
    const Fragment* from = a.fragments + list * a.plan.of_list() + lane;
    Largest largest[2 * products];
    Fragment b[pairs], next[pairs];
    load_tile(from, b);
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) load_tile(from += a.plan.of_tile(), next);
      x.meet(b, tile, columns, largest);
#pragma unroll
      for (int pair = 0; pair < pairs; ++pair) b[pair] = next[pair];
    }
    int own[own_rows] = {};  // row i of four lanes belongs to lane i % 4
#pragma unroll
    for (int i = 0; i < 2 * products; ++i) {
      largest[i].merge();
      if (lane % 4 == i % 4) own[i / 4] = largest[i].code(columns);
    }
#pragma unroll
    for (int j = 0; j < own_rows; ++j) {
      const int i = 4 * j + lane % 4, row = part.first + lane / 4 * 2 * products + i;
      if (i < 2 * products && row < part.length) a.codes[list * a.x.tokens + part.begin + row] = own[j];
    }
  }
}

template <int pairs, int products>
void launch(Cuda& cuda, ProductArguments a, const RandomStream& stream) {
  const int columns = a.shape.columns(a.sequences.longest), lists = a.x.heads * a.shape.rounds;
  a.plan = {(columns + tile_columns - 1) / tile_columns, pairs};
  const Scratch<Fragment> fragments(cuda, lists * a.plan.of_list());
  a.fragments = fragments.data();
  const std::int64_t halves = 2 * lists * a.plan.of_list();
  if (halves > 0) {
    draw_fragments<<<grid_for(cuda, halves, threads_per_block), threads_per_block, 0, cuda.stream>>>(
        stream, {a.shape.rounds, columns, a.x.width}, a.plan, halves,
        reinterpret_cast<Pack<std::uint32_t, 2>*>(fragments.data()));
    check_launch("rotation_codes: draw_fragments");
  }
  a.parts = static_cast<int>(most_parts(a.sequences, 16 * products));
  const std::int64_t warps = std::int64_t{a.parts} * a.x.heads;
  const auto blocks = static_cast<unsigned>((warps + warps_per_block - 1) / warps_per_block);
  find_codes_by_products<pairs, products><<<blocks, threads_per_block, 0, cuda.stream>>>(a);
  check_launch("rotation_codes: find_codes_by_products");
}

}  // namespace

void rotation_codes_by_products(Cuda& cuda, const Sequences& sequences, Heads<const bfloat16> x,
                                RotationShape shape, const RandomStream& stream, std::int32_t* codes) {
  const ProductArguments arguments{sequences, x, shape, {}, nullptr, 0, rows_are_packed(x), codes};
  if (x.width <= 32)
    launch<1, 4>(cuda, arguments, stream);
  else if (x.width <= 64)
    launch<2, 4>(cuda, arguments, stream);
  else if (x.width <= 128)
    launch<4, 2>(cuda, arguments, stream);
  else
    launch<8, 1>(cuda, arguments, stream);
}

}  // namespace tern::kernels
