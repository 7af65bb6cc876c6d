// Sums of outer products over sequences. Deterministic: a block sums one chunk of a sequence for one head and a
// tile of the matrix; where sequences are longer than a chunk, partial sums are added in order. Cost
// tokens * heads * rows * columns products; each operand is read once for each 64 columns of the other, or for
// 128 where both have so many; bfloat16 on tensor cores.
#include "kernels/cuda/outer_sum_tiles.cuh"
#include "kernels/cuda/wide_product_tiles.cuh"

namespace tern::kernels {
namespace {

/// Tile z of 128 rows and 128 columns, for operands of so many columns; without totals.
__global__ void __launch_bounds__(wide_threads, 2)
    sum_wide_tiles(Sequences sequences, OuterSums<bfloat16> in, Chunks<float> chunks) {
  extern __shared__ __align__(128) std::byte memory[];
  const ChunkRange range = chunk_range(sequences, chunks, in.a.heads);
  if (range.count <= 0 && chunks.count > 1) return;
  const int column_tiles = (in.b.width + wide_tile - 1) / wide_tile;
  const int tile_row = static_cast<int>(blockIdx.z) / column_tiles * wide_tile,
            tile_column = static_cast<int>(blockIdx.z) % column_tiles * wide_tile;
  const auto source = [&](const Heads<const bfloat16>& x, int step, int column) {
    const int token = step * wide_depth;
    return WideSource{row_of(x, range.first + token, range.head) + column, x.token_stride, range.count - token,
                      x.width - column};
  };
  WideSums sums{};
  add_wide<true, true>(
      sums, memory, (range.count + wide_depth - 1) / wide_depth,
      [&](int step) { return source(in.a, step, tile_row); },
      [&](int step) { return source(in.b, step, tile_column); });
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int i = 0; i < warp_tile_rows / 8; ++i) {
    const int half = i % 2, row = tile_row + warp_tile_row() + 8 * i + lane / 4;
    if (row >= in.a.width) continue;
    float* const to = chunks.matrices + (range.place * in.a.width + row) * in.b.width;
#pragma unroll
    for (int n = 0; n < warp_tile_columns / 8; ++n)
      if (const int column = tile_column + warp_tile_column() + 8 * n + lane % 4 * 2; column < in.b.width)
        store_pack(to + column, Pack<float, 2>{sums[i / 2][n][2 * half], sums[i / 2][n][2 * half + 1]});
  }
}

constexpr int plain_tile = 32, plain_side = 16;  ///< a thread sums 2 x 2 products

/// The same in plain arithmetic, for any type, alignment and width: tiles of 32 rows and 32 columns.
template <class T>
__global__ void __launch_bounds__(plain_side* plain_side)
    sum_plain(Sequences sequences, OuterSums<T> in, Chunks<Accumulate<T>> chunks) {
  using A = Accumulate<T>;
  __shared__ A a_tile[plain_tile][plain_tile + 1], b_tile[plain_tile][plain_tile + 1];
  const ChunkRange range = chunk_range(sequences, chunks, in.a.heads);
  if (range.count <= 0 && chunks.count > 1) return;
  const int column_tiles = (in.b.width + plain_tile - 1) / plain_tile;
  const int tile_row = static_cast<int>(blockIdx.z) / column_tiles * plain_tile,
            tile_column = static_cast<int>(blockIdx.z) % column_tiles * plain_tile;
  const int x = static_cast<int>(threadIdx.x) % plain_side, y = static_cast<int>(threadIdx.x) / plain_side;
  const auto load = [&](const Heads<const T>& from, int token, int column) {
    return token < range.count && column < from.width
               ? to_accumulate(row_of(from, range.first + token, range.head)[column])
               : A(0);
  };
  A sums[2][2] = {}, total[2] = {};
  for (int first = 0; first < range.count; first += plain_tile) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < plain_tile * plain_tile; i += plain_side * plain_side) {
      const int token = i / plain_tile, column = i % plain_tile;
      a_tile[token][column] = load(in.a, first + token, tile_row + column);
      b_tile[token][column] = load(in.b, first + token, tile_column + column);
    }
    __syncthreads();
    for (int token = 0; token < plain_tile; ++token) {
      const A a[2] = {a_tile[token][y], a_tile[token][y + plain_side]};
      const A b[2] = {b_tile[token][x], b_tile[token][x + plain_side]};
      const A weight = in.weights == nullptr || first + token >= range.count
                           ? A(1)
                           : in.weights[(range.first + first + token) * in.a.heads + range.head];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sums[i][0] += a[i] * b[0];
        sums[i][1] += a[i] * b[1];
        total[i] += weight * a[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = tile_row + y + i * plain_side;
    if (row >= in.a.width) continue;
    const std::int64_t place = range.place * in.a.width + row;
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (const int column = tile_column + x + j * plain_side; column < in.b.width)
        chunks.matrices[place * in.b.width + column] = sums[i][j];
    if (in.totals != nullptr && tile_column == 0 && x == 0) chunks.totals[place] = total[i];
  }
}

template <class T>
void launch_sums(Cuda& cuda, const Sequences& sequences, const OuterSums<T>& in,
                 const Chunks<Accumulate<T>>& chunks) {
  const auto grid = [&](int tile) {
    return dim3(static_cast<unsigned>(sequences.count * chunks.count), static_cast<unsigned>(in.a.heads),
                static_cast<unsigned>((in.a.width + tile - 1) / tile * ((in.b.width + tile - 1) / tile)));
  };
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (rows_are_packed(in.a) && rows_are_packed(in.b)) {
      if (in.totals == nullptr && std::min(in.a.width, in.b.width) >= wide_tile) {
        constexpr int bytes = wide_bytes<true, true>;
        check_cuda(cudaFuncSetAttribute(sum_wide_tiles, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                   "outer_sums: shared memory");
        sum_wide_tiles<<<grid(wide_tile), wide_threads, bytes, cuda.stream>>>(sequences, in, chunks);
        return check_launch("outer_sums");
      }
      sum_tiles<false><<<grid(product_tile), outer_threads, 0, cuda.stream>>>(sequences, {in}, chunks);
      return check_launch("outer_sums");
    }
  }
  sum_plain<T><<<grid(plain_tile), plain_side * plain_side, 0, cuda.stream>>>(sequences, in, chunks);
  check_launch("outer_sums");
}

}  // namespace

template <class T>
void outer_sums(Cuda& cuda, const Sequences& sequences, const OuterSums<T>& in) {
  using A = Accumulate<T>;
  const std::int64_t pairs = sequences.count * in.a.heads, size = std::int64_t{in.a.width} * in.b.width;
  if (pairs * size == 0) return;
  Chunks<A> chunks = chunks_of(sequences, in.matrices, in.totals);
  if (chunks.count == 1) return launch_sums(cuda, sequences, in, chunks);
  const Scratch<A> matrices(cuda, pairs * chunks.count * size),
      totals(cuda, in.totals ? pairs * chunks.count * in.a.width : 0);
  chunks.matrices = matrices.data();
  chunks.totals = totals.data();
  launch_sums(cuda, sequences, in, chunks);
  const auto add = [&](const A* partial, std::int64_t entries, A* out) {
    add_chunks<<<grid_for(cuda, pairs * entries, 256), 256, 0, cuda.stream>>>(sequences, chunks, partial,
                                                                              in.a.heads, entries, out);
    check_launch("outer_sums: add");
  };
  add(matrices.data(), size, in.matrices);
  if (in.totals != nullptr) add(totals.data(), in.a.width, in.totals);
}

#define INSTANTIATE(T) template void outer_sums<T>(Cuda&, const Sequences&, const OuterSums<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
