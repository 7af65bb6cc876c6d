// Codes of rows by random rotations. The directions of a head and round are drawn once for the batch; a thread
// keeps its row in registers and meets them one after another, all threads of a block the same one; bfloat16
// rows go through tensor cores instead (rotation_codes_products.cu). Deterministic: each product is one sum in
// the order of the columns. Cost tokens * heads * width * rounds * columns multiply-adds.
#include "base/normal.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/rotation_codes.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 128;
constexpr int most_registers = 128;  ///< columns of a row that a thread keeps

__device__ float round_to_bfloat16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

/// directions[head, round, column, c]; a thread draws four neighbours.
__global__ void __launch_bounds__(threads_per_block)
    draw_rotations(RandomStream stream, int lists, int rounds, std::int64_t elements, float* directions) {
  const std::int64_t draws = (elements + 3) / 4;
  for (std::int64_t i = thread_index(); i < lists * draws; i += grid_threads()) {
    const auto list = static_cast<int>(i / draws);
    const std::int64_t first = i % draws * 4;
    float drawn[4];
    normals_of(
        stream.words(0, rotation_block(list / rounds, list % rounds) + static_cast<std::uint64_t>(first / 4)),
        drawn);
#pragma unroll
    for (int u = 0; u < 4; ++u)
      if (first + u < elements) directions[list * elements + first + u] = round_to_bfloat16(drawn[u]);
  }
}

template <class T>
struct RotationArguments {
  Sequences sequences;
  Heads<const T> x;
  RotationShape shape;
  const float* directions;
  int most_columns;
  std::int32_t* codes;
};

/// Thread: one token of head and round blockIdx.y. `width` columns of the row stay in registers; 0: none, they
/// are read for each direction.
template <int width, class T>
__global__ void __launch_bounds__(threads_per_block) find_codes(RotationArguments<T> a) {
  using A = Accumulate<T>;
  const int list = static_cast<int>(blockIdx.y), columns_of_row = a.x.width;
  const std::int64_t token = thread_index();
  if (token >= a.x.tokens) return;
  const SequenceRange range = find_sequence(a.sequences, static_cast<int>(token));
  std::int32_t* const code = a.codes + list * a.x.tokens + token;
  const int columns = range.index == a.sequences.count ? 0 : a.shape.columns(range.length);
  if (columns == 0) {
    *code = 0;
    return;
  }
  const T* const row = row_of(a.x, token, list / a.shape.rounds);
  A x[width > 0 ? width : 1];
#pragma unroll
  for (int c = 0; c < width; ++c) x[c] = c < columns_of_row ? to_accumulate(row[c]) : A{0};
  const float* direction = a.directions + static_cast<std::int64_t>(list) * a.most_columns * columns_of_row;
  A most = -INFINITY, least = INFINITY;
  int most_place = 0, least_place = 0;
  for (int column = 0; column < columns; ++column, direction += columns_of_row) {
    A sum = 0;
    if constexpr (width > 0) {
#pragma unroll
      for (int c = 0; c < width; ++c) sum += x[c] * (c < columns_of_row ? A{direction[c]} : A{0});
    } else {
      for (int c = 0; c < columns_of_row; ++c) sum += to_accumulate(row[c]) * A{direction[c]};
    }
    if (sum > most) most = sum, most_place = column;
    if (sum < least) least = sum, least_place = column;
  }
  *code = most >= -least ? most_place : columns + least_place;
}

}  // namespace

template <class T>
void rotation_codes(Cuda& cuda, const Sequences& sequences, Heads<const T> x, RotationShape shape,
                    const RandomStream& stream, std::int32_t* codes) {
  const int lists = x.heads * shape.rounds, columns = shape.columns(sequences.longest);
  if (x.tokens == 0 || lists == 0) return;
  require(lists < 65536, "rotation_codes: heads * rounds must lie below 65536, got {} and {}", x.heads,
          shape.rounds);
  constexpr bool has_products = std::is_same_v<T, bfloat16>;
  if constexpr (has_products) {
    if (x.width <= most_product_columns)
      return rotation_codes_by_products(cuda, sequences, x, shape, stream, codes);
  }
  const std::int64_t elements = std::int64_t{columns} * x.width;
  const Scratch<float> directions(cuda, lists * elements);
  if (elements > 0) {
    draw_rotations<<<grid_for(cuda, lists * ((elements + 3) / 4), threads_per_block), threads_per_block, 0,
                     cuda.stream>>>(stream, lists, shape.rounds, elements, directions.data());
    check_launch("rotation_codes: draw");
  }
  const RotationArguments<T> arguments{sequences, x, shape, directions.data(), columns, codes};
  const dim3 grid(static_cast<unsigned>((x.tokens + threads_per_block - 1) / threads_per_block),
                  static_cast<unsigned>(lists));
  // without an instance that no row would reach
  constexpr int most_width = has_products ? 0 : sizeof(Accumulate<T>) == 4 ? most_registers : 64;
  const auto launch = [&]<int width>(std::integral_constant<int, width>) {
    constexpr int kept = std::min(width, most_width);
    find_codes<kept, T><<<grid, threads_per_block, 0, cuda.stream>>>(arguments);
  };
  if (x.width <= 32)
    launch(std::integral_constant<int, 32>{});
  else if (x.width <= 64)
    launch(std::integral_constant<int, 64>{});
  else if (x.width <= most_width)
    launch(std::integral_constant<int, most_registers>{});
  else
    launch(std::integral_constant<int, 0>{});
  check_launch("rotation_codes");
}

#define INSTANTIATE(T)                                                                                         \
  template void rotation_codes<T>(Cuda&, const Sequences&, Heads<const T>, RotationShape, const RandomStream&, \
                                  std::int32_t*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
