// Products of a sequence's rows with the sequence's matrix. Deterministic: every row is summed by itself. Cost
// tokens * heads * x.width * y.width products; bfloat16 on tensor cores, the matrix rounded to it where it
// meets the rows.
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/sequence_product_tiles.cuh"
#include "kernels/sequence_products.h"

namespace tern::kernels {
namespace {

/// The rows of a block and the matrix that belongs to them.
struct RowBlock {
  std::int64_t first, pair;
  int count, head;
};

/// Block (x, y): block x % parts of sequence x / parts, head y.
__device__ __forceinline__ RowBlock row_block(const SequenceRange& range, int heads, int parts, int rows) {
  const int head = static_cast<int>(blockIdx.y), begin = static_cast<int>(blockIdx.x) % parts * rows;
  const int rest = range.length - begin;
  return {std::int64_t{range.begin} + begin, std::int64_t{range.index} * heads + head,
          rest < rows ? rest : rows, head};
}

/// Zeros for rows outside all sequences, from the blocks that have the index of the sequence behind the last.
template <class T>
__device__ void clear_unused(const RowProducts<T>& in, const SequenceRange& range, int parts) {
  if (blockIdx.z != 0) return;
  const int head = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x) % parts;
  const std::int64_t entries = std::int64_t{range.length} * in.y.width;
  for (std::int64_t i = std::int64_t{part} * blockDim.x + threadIdx.x; i < entries;
       i += std::int64_t{parts} * blockDim.x) {
    const std::int64_t token = range.begin + i / in.y.width;
    row_of(in.y, token, head)[i % in.y.width] = from_accumulate<T>(0);
    if (in.totals.divisors != nullptr) in.totals.divisors[token * in.x.heads + head] = 1;
  }
}

constexpr int product_threads = 256, block_rows = product_threads / warp_lanes * 16;

/// Rounds a 64 x 64 tile of a matrix to bfloat16; zeros beyond it.
__device__ __forceinline__ void load_matrix(bfloat16* to, const float* from, int rows, int columns, int row,
                                            int column) {
#pragma unroll
  for (int i = 0; i < product_tile * product_tile / 4 / product_threads; ++i) {
    const int pack = i * product_threads + static_cast<int>(threadIdx.x), r = pack / (product_tile / 4),
              c = pack % (product_tile / 4) * 4;
    Pack<float, 4> items{};
    if (row + r < rows && column + c < columns)
      items = load_pack<4>(from + std::int64_t{row + r} * columns + column + c);
    store_pack(reinterpret_cast<std::uint32_t*>(to + r * tile_stride + c),
               Pack<std::uint32_t, 2>{pack_pair(items.item[0], items.item[1]),
                                      pack_pair(items.item[2], items.item[3])});
  }
}

/// Finishes the sums of a lane's row `g` + 8 * half; `divisor_sum` lies in lane 4 g.
template <class Sums>
__device__ __forceinline__ void finish_row(const RowProducts<bfloat16>& in, const RowBlock& block, int row,
                                           int half, int tile_column, float divisor_sum, Sums& sums) {
  using Use = RowTotals<bfloat16>::Use;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t place = (block.first + row) * in.x.heads + block.head;
  if (in.totals.use == Use::divide) {
    const float divisor =
        __shfl_sync(0xFFFFFFFFu, divisor_sum, lane / 4 * 4) + static_cast<float>(in.totals.epsilon);
    const float factor = 1.0f / divisor;
    if (lane % 4 == 0 && tile_column == 0 && row < block.count) in.totals.divisors[place] = divisor;
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n) sums[n][2 * half] *= factor, sums[n][2 * half + 1] *= factor;
  }
  if (in.totals.use == Use::add) {
    const float weight = in.totals.weights == nullptr ? 1.0f
                         : row < block.count          ? in.totals.weights[place]
                                                      : 0.0f;
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n)
      if (const int column = tile_column + 8 * n + lane % 4 * 2; column < in.y.width) {
        const Pack<float, 2> vector = load_pack<2>(in.totals.vectors + block.pair * in.y.width + column);
        sums[n][2 * half] += weight * vector.item[0];
        sums[n][2 * half + 1] += weight * vector.item[1];
      }
  }
}

/// Block (x, y, z): 128 rows, head y, columns 64 z .. 64 z + 63; a warp takes 16 rows.
template <bool is_transposed>
__global__ void __launch_bounds__(product_threads, 3)
    multiply_tiles(Sequences sequences, RowProducts<bfloat16> in, int parts) {
  __shared__ __align__(128) bfloat16 rows_tile[block_rows * tile_stride],
      matrix_tile[product_tile * tile_stride];
  __shared__ float vector[product_tile];
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / parts);
  if (range.index == sequences.count) return clear_unused(in, range, parts);
  const RowBlock block = row_block(range, in.x.heads, parts, block_rows);
  if (block.count <= 0) return;
  const int tile_column = static_cast<int>(blockIdx.z) * product_tile,
            lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16;
  const bool divides = in.totals.use == RowTotals<bfloat16>::Use::divide;
  const float* matrix = in.matrices + block.pair * in.x.width * in.y.width;
  float sums[product_tile / 8][4] = {}, divisor[4] = {};
  for (int depth = 0; depth < in.x.width; depth += product_tile) {
    if (depth > 0) __syncthreads();
    copy_tile<block_rows, product_threads>(rows_tile, in.x, block.first, block.count, block.head, depth);
    commit_copies();
    if (is_transposed)
      load_matrix(matrix_tile, matrix, in.y.width, in.x.width, tile_column, depth);
    else
      load_matrix(matrix_tile, matrix, in.x.width, in.y.width, depth, tile_column);
    if (const int i = static_cast<int>(threadIdx.x); divides && i < product_tile)
      vector[i] = depth + i < in.x.width ? in.totals.vectors[block.pair * in.x.width + depth + i] : 0.0f;
    wait_copies<0>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < product_tile; k += 16) {
      std::uint32_t a[4];
      load_rows(a, rows_tile, warp_row, k);
#pragma unroll
      for (int n = 0; n < product_tile / 16; ++n) {
        std::uint32_t b[4];
        is_transposed ? load_columns_transposed(b, matrix_tile, k, n * 16)
                      : load_columns(b, matrix_tile, k, n * 16);
        add_product(sums[2 * n], a, b[0], b[1]);
        add_product(sums[2 * n + 1], a, b[2], b[3]);
      }
      if (divides) {
        const int t = k + lane % 4 * 2;
        const bool is_first = lane / 4 == 0;
        add_product(divisor, a, is_first ? pack_pair(vector[t], vector[t + 1]) : 0,
                    is_first ? pack_pair(vector[t + 8], vector[t + 9]) : 0);
      }
    }
  }
  // a warp reads no rows but its own, so that it can lay its results there
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    finish_row(in, block, row, half, tile_column, divisor[2 * half], sums);
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n)
      *reinterpret_cast<std::uint32_t*>(rows_tile + row * tile_stride + 8 * n + lane % 4 * 2) =
          pack_pair(sums[n][2 * half], sums[n][2 * half + 1]);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * tile_packs / warp_lanes; ++i) {
    const int pack = i * warp_lanes + lane, row = warp_row + pack / tile_packs, place = pack % tile_packs * 8;
    if (row < block.count && tile_column + place < in.y.width)
      store_pack(row_of(in.y, block.first + row, block.head) + tile_column + place,
                 load_pack<8>(rows_tile + row * tile_stride + place));
  }
}

constexpr int plain_tile = 32, plain_side = 16;  ///< a thread sums 2 x 2 results

/// The same in plain arithmetic, for any type, alignment and width: 32 rows and 32 columns.
template <class T>
__global__ void __launch_bounds__(plain_side* plain_side)
    multiply_plain(Sequences sequences, RowProducts<T> in, int parts) {
  using A = Accumulate<T>;
  using Use = typename RowTotals<T>::Use;
  __shared__ A rows_tile[plain_tile][plain_tile + 1], matrix_tile[plain_tile][plain_tile + 1],
      vector[plain_tile];
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / parts);
  if (range.index == sequences.count) return clear_unused(in, range, parts);
  const RowBlock block = row_block(range, in.x.heads, parts, plain_tile);
  if (block.count <= 0) return;
  const int tile_column = static_cast<int>(blockIdx.z) * plain_tile, depth = in.x.width, width = in.y.width;
  const int x = static_cast<int>(threadIdx.x) % plain_side, y = static_cast<int>(threadIdx.x) / plain_side;
  const A* matrix = in.matrices + block.pair * depth * width;
  A sums[2][2] = {}, divisor[2] = {};
  for (int first = 0; first < depth; first += plain_tile) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < plain_tile * plain_tile; i += plain_side * plain_side) {
      const int r = i / plain_tile, c = i % plain_tile;
      rows_tile[r][c] = r < block.count && first + c < depth
                            ? to_accumulate(row_of(in.x, block.first + r, block.head)[first + c])
                            : A(0);
      if (in.order == MatrixOrder::transposed)
        matrix_tile[c][r] = tile_column + r < width && first + c < depth
                                ? matrix[std::int64_t{tile_column + r} * depth + first + c]
                                : A(0);
      else
        matrix_tile[r][c] = first + r < depth && tile_column + c < width
                                ? matrix[std::int64_t{first + r} * width + tile_column + c]
                                : A(0);
      if (in.totals.use == Use::divide && r == 0)
        vector[c] = first + c < depth ? in.totals.vectors[block.pair * depth + first + c] : A(0);
    }
    __syncthreads();
    for (int k = 0; k < plain_tile; ++k) {
      const A b[2] = {matrix_tile[k][x], matrix_tile[k][x + plain_side]};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const A a = rows_tile[y + i * plain_side][k];
        sums[i][0] += a * b[0];
        sums[i][1] += a * b[1];
        if (in.totals.use == Use::divide) divisor[i] += a * vector[k];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = y + i * plain_side;
    if (row >= block.count) continue;
    const std::int64_t place = (block.first + row) * in.x.heads + block.head;
    divisor[i] += static_cast<A>(in.totals.epsilon);
    if (in.totals.use == Use::divide && tile_column == 0 && x == 0) in.totals.divisors[place] = divisor[i];
    const A weight = in.totals.weights == nullptr ? A(1) : in.totals.weights[place];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int column = tile_column + x + j * plain_side;
      if (column >= width) continue;
      A value = sums[i][j];
      if (in.totals.use == Use::divide) value /= divisor[i];
      if (in.totals.use == Use::add) value += weight * in.totals.vectors[block.pair * width + column];
      row_of(in.y, block.first + row, block.head)[column] = from_accumulate<T>(value);
    }
  }
}

/// dn and ddivisors of one row for each group of eight lanes.
template <int items, class T>
__global__ void __launch_bounds__(256)
    divided_rows(Heads<const T> y, Heads<const T> dy, const Accumulate<T>* divisors, T* dn,
                 Accumulate<T>* ddivisors) {
  using A = Accumulate<T>;
  constexpr int lanes = 8;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const std::int64_t rows = y.tokens * y.heads, step = grid_threads() / lanes;
  // whole warps stay together for the sums
  for (std::int64_t base = thread_index() / warp_lanes * (warp_lanes / lanes); base < rows; base += step) {
    const std::int64_t place = base + static_cast<int>(threadIdx.x) % warp_lanes / lanes;
    const bool is_row = place < rows;
    const std::int64_t token = (is_row ? place : 0) / y.heads;
    const int head = static_cast<int>((is_row ? place : 0) % y.heads);
    const T *values = row_of(y, token, head), *slopes = row_of(dy, token, head);
    const A factor = is_row ? A(1) / divisors[place] : A(0);
    A dot = 0;
    for (int c = lane * items; c < y.width && is_row; c += lanes * items) {
      const Pack<T, items> value = load_pack<items>(values + c), slope = load_pack<items>(slopes + c);
      Pack<T, items> out;
#pragma unroll
      for (int i = 0; i < items; ++i) {
        const A d = to_accumulate(slope.item[i]);
        dot += d * to_accumulate(value.item[i]);
        out.item[i] = from_accumulate<T>(d * factor);
      }
      store_pack(dn + place * y.width + c, out);
    }
    dot = warp_sum(dot, lanes);
    if (is_row && lane == 0) ddivisors[place] = -dot * factor;
  }
}

}  // namespace

template <class T>
void row_products(Cuda& cuda, const Sequences& sequences, const RowProducts<T>& in) {
  if (in.x.tokens == 0 || in.x.heads == 0 || in.y.width == 0) return;
  const auto parts = [&](int rows) {
    return static_cast<int>(std::max<std::int64_t>(1, (sequences.longest + rows - 1) / rows));
  };
  const auto grid = [&](int rows, int columns) {
    return dim3(static_cast<unsigned>((sequences.count + 1) * parts(rows)), static_cast<unsigned>(in.x.heads),
                static_cast<unsigned>((in.y.width + columns - 1) / columns));
  };
  if constexpr (std::is_same_v<T, bfloat16>) {
    const Heads<const T> y{in.y.data, in.y.tokens, in.y.heads, in.y.width, in.y.token_stride, in.y.head_stride};
    if (rows_are_packed(in.x) && rows_are_packed(y)) {
      const auto kernel = in.order == MatrixOrder::transposed ? multiply_tiles<true> : multiply_tiles<false>;
      kernel<<<grid(block_rows, product_tile), product_threads, 0, cuda.stream>>>(sequences, in,
                                                                                  parts(block_rows));
      return check_launch("row_products");
    }
  }
  multiply_plain<T><<<grid(plain_tile, plain_tile), plain_side * plain_side, 0, cuda.stream>>>(
      sequences, in, parts(plain_tile));
  check_launch("row_products");
}

template <class T>
void divided_rows_backward(Cuda& cuda, Heads<const T> y, Heads<const T> dy, const Accumulate<T>* divisors,
                           T* dn, Accumulate<T>* ddivisors) {
  const std::int64_t rows = y.tokens * y.heads;
  if (rows == 0) return;
  constexpr int threads = 256, items = pack_items<T>;
  const unsigned blocks = grid_for(cuda, rows * 8, threads, 16);
  if (rows_are_packed(y) && rows_are_packed(dy) && is_aligned(16, dn))
    divided_rows<items, T><<<blocks, threads, 0, cuda.stream>>>(y, dy, divisors, dn, ddivisors);
  else
    divided_rows<1, T><<<blocks, threads, 0, cuda.stream>>>(y, dy, divisors, dn, ddivisors);
  check_launch("divided_rows_backward");
}

#define INSTANTIATE(T)                                                                                    \
  template void row_products<T>(Cuda&, const Sequences&, const RowProducts<T>&);                          \
  template void divided_rows_backward<T>(Cuda&, Heads<const T>, Heads<const T>, const Accumulate<T>*, T*, \
                                         Accumulate<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
