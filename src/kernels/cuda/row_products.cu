// Products of a sequence's rows with the sequence's matrix. Deterministic: every row is summed by itself. Cost
// tokens * heads * x.width * y.width products; bfloat16 on tensor cores, the matrix rounded to it where it
// meets the rows; from 128 columns on both sides in tiles of 128 x 128.
#include "kernels/cuda/row_product_tiles.cuh"
#include "kernels/cuda/wide_product_tiles.cuh"

namespace tern::kernels {
namespace {

__global__ void round_matrices(const float* from, std::int64_t packs, bfloat16* to) {
  for (std::int64_t i = thread_index(); i < packs; i += grid_threads()) {
    const Pack<float, 4> items = load_pack<4>(from + 4 * i);
    store_pack(reinterpret_cast<std::uint32_t*>(to + 4 * i),
               Pack<std::uint32_t, 2>{pack_pair(items.item[0], items.item[1]),
                                      pack_pair(items.item[2], items.item[3])});
  }
}

/// Block (x, y, z): 128 rows, head y, columns 128 z .. 128 z + 127; matrices in bfloat16, no totals.
template <bool is_transposed>
__global__ void __launch_bounds__(wide_threads, 2)
    multiply_wide_tiles(Sequences sequences, RowProducts<bfloat16> in, int parts, const bfloat16* matrices) {
  extern __shared__ __align__(128) std::byte memory[];
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / parts);
  if (range.index == sequences.count) return clear_unused(in, range, parts);
  const RowBlock block = row_block(range, in.x.heads, parts, wide_tile);
  if (block.count <= 0) return;
  const int tile_column = static_cast<int>(blockIdx.z) * wide_tile, depth = in.x.width, width = in.y.width;
  const bfloat16* const matrix = matrices + block.pair * depth * width;
  WideSums sums{};
  add_wide<false, !is_transposed>(
      sums, memory, (depth + wide_depth - 1) / wide_depth,
      [&](int step) {
        return WideSource{row_of(in.x, block.first, block.head) + step * wide_depth, in.x.token_stride,
                          block.count, depth - step * wide_depth};
      },
      [&](int step) {
        const std::int64_t first = step * wide_depth, depth_left = depth - first,
                           columns_left = width - tile_column;
        return is_transposed
                   ? WideSource{matrix + std::int64_t{tile_column} * depth + first, depth, columns_left,
                                depth_left}
                   : WideSource{matrix + first * width + tile_column, width, depth_left, columns_left};
      });
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  bfloat16* const results = reinterpret_cast<bfloat16*>(memory) +
                            static_cast<int>(threadIdx.x) / warp_lanes * warp_tile_rows * result_stride;
#pragma unroll
  for (int i = 0; i < warp_tile_rows / 8; ++i)
#pragma unroll
    for (int n = 0; n < warp_tile_columns / 8; ++n)
      *reinterpret_cast<std::uint32_t*>(results + (8 * i + lane / 4) * result_stride + 8 * n + lane % 4 * 2) =
          pack_pair(sums[i / 2][n][i % 2 * 2], sums[i / 2][n][i % 2 * 2 + 1]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < warp_tile_rows * warp_tile_columns / 8 / warp_lanes; ++i) {
    const int pack = i * warp_lanes + lane, row = pack / (warp_tile_columns / 8),
              column = pack % (warp_tile_columns / 8) * 8, place = tile_column + warp_tile_column() + column;
    if (warp_tile_row() + row < block.count && place < width)
      store_pack(row_of(in.y, block.first + warp_tile_row() + row, block.head) + place,
                 load_pack<8>(results + row * result_stride + column));
  }
}

template <bool is_transposed>
void launch_wide(Cuda& cuda, const Sequences& sequences, const RowProducts<bfloat16>& in) {
  const std::int64_t entries = sequences.count * in.x.heads * in.x.width * in.y.width;
  const Scratch<bfloat16> matrices(cuda, entries);
  round_matrices<<<grid_for(cuda, entries / 4, 256), 256, 0, cuda.stream>>>(in.matrices, entries / 4,
                                                                            matrices.data());
  constexpr int bytes = wide_bytes<false, !is_transposed>;
  check_cuda(cudaFuncSetAttribute(multiply_wide_tiles<is_transposed>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "row_products: shared memory");
  multiply_wide_tiles<is_transposed>
      <<<product_grid(sequences, in, wide_tile, wide_tile), wide_threads, bytes, cuda.stream>>>(
          sequences, in, parts_of(sequences, wide_tile), matrices.data());
  check_launch("row_products");
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
  const auto parts = [&](int rows) { return parts_of(sequences, rows); };
  const auto grid = [&](int rows, int columns) { return product_grid(sequences, in, rows, columns); };
  if constexpr (std::is_same_v<T, bfloat16>) {
    const Heads<const T> y{in.y.data, in.y.tokens, in.y.heads, in.y.width, in.y.token_stride, in.y.head_stride};
    if (rows_are_packed(in.x) && rows_are_packed(y)) {
      if (in.totals.use == RowTotals<T>::Use::none && std::min(in.x.width, in.y.width) >= wide_tile)
        return in.order == MatrixOrder::transposed ? launch_wide<true>(cuda, sequences, in)
                                                   : launch_wide<false>(cuda, sequences, in);
      const auto kernel = in.order == MatrixOrder::transposed ? multiply_tiles<true, StoredMatrices>
                                                              : multiply_tiles<false, StoredMatrices>;
      kernel<<<grid(block_rows, product_tile), product_threads, 0, cuda.stream>>>(
          sequences, in, parts(block_rows), StoredMatrices{in.matrices});
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
