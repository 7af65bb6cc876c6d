// Embedding lookup, and sums over sequences for pooling. Deterministic. A thread takes eight columns of a row.
// Lookup costs its output's bytes and, for rows that are not in cache, the tables'; the mean reads x once, in
// pieces of a sequence that are added in order.
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/embedding.h"

namespace tern::kernels {
namespace {

/// A block is `x` runs of eight columns by `y` rows; rows go on in a grid-stride loop.
dim3 block_shape(std::int64_t width) {
  unsigned runs = 1;
  while (runs < 32 && runs * lane_columns < width) runs *= 2;
  return {runs, row_threads / runs};
}
unsigned grid_rows(const Cuda& cuda, std::int64_t rows, dim3 block) {
  return grid_for(cuda, rows, static_cast<int>(block.y), 32);
}
__device__ __forceinline__ std::int64_t block_row() {
  return std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
}
__device__ __forceinline__ std::int64_t block_row_step() { return std::int64_t{gridDim.x} * blockDim.y; }

template <class T>
__global__ void __launch_bounds__(row_threads)
    look_up(EmbeddingTables<Accumulate<T>> tables, std::int64_t count, DropoutDraw<Accumulate<T>> draw,
            bool is_packed, DeviceFault* fault, T* y) {
  using A = Accumulate<T>;
  const std::int64_t width = tables.table.width;
  const std::uint32_t step = draw.step();
  for (std::int64_t r = block_row(); r < count; r += block_row_step()) {
    std::int64_t id = tables.id[r];
    const std::int64_t place = tables.place_table.data != nullptr ? tables.position[r] : 0;
    const DropoutRow coordinates = draw.row(r, step);
    if (id < 0 || id >= tables.table.rows) {
      if (threadIdx.x == 0) report_fault(fault, FaultSite::embedding, r, id, tables.table.rows);
      id = 0;
    }
    for (std::int64_t c = threadIdx.x * lane_columns; c < width; c += blockDim.x * lane_columns) {
      A sum[lane_columns], factor[lane_columns];
      load_columns(tables.table.data + id * tables.table.stride, c, width, is_packed, sum);
      if (tables.place_table.data != nullptr) {
        A term[lane_columns];
        load_columns(tables.place_table.data + place * tables.place_table.stride, c, width, is_packed, term);
#pragma unroll
        for (int i = 0; i < lane_columns; ++i) sum[i] += term[i];
      }
      draw.factors(coordinates, static_cast<std::uint32_t>(c), factor);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) sum[i] = drop_out(sum[i], factor[i]);
      store_columns(y + r * width, c, width, is_packed, sum);
    }
  }
}

/// Follows a rising row number through the sequences.
struct SequenceWalk {
  const std::int32_t* offsets;
  std::int64_t count, s, begin, end;  ///< sequence s has rows begin .. end - 1

  __device__ SequenceWalk(const Sequences& sequences, std::int64_t r)
      : offsets(sequences.offsets), count(sequences.count), s(0) {
    std::int64_t high = count;  // offsets[s] <= r, and r < offsets[high] where that is a sequence's end
    while (high - s > 1) {
      const std::int64_t middle = (s + high) / 2;
      (offsets[middle] <= r ? s : high) = middle;
    }
    begin = count > 0 ? offsets[s] : 0;
    end = count > 0 ? offsets[s + 1] : 0;
  }
  /// Whether row r, no less than in the call before, belongs to a sequence, which s then is.
  __device__ __forceinline__ bool reach(std::int64_t r) {
    while (r >= end && s + 1 < count) {
      ++s;
      begin = end;
      end = offsets[s + 1];
    }
    return r < end;
  }
};

template <class A>
__device__ __forceinline__ A mean_scale(const Sequences& sequences, std::int64_t s, std::int64_t divisor) {
  const std::int64_t tokens = sequences.offsets[s + 1] - sequences.offsets[s];
  return A(1) / static_cast<A>(divisor > 0 ? divisor : tokens > 0 ? tokens : 1);
}

/// Tokens of a sequence that one block adds.
constexpr int piece_tokens = 256;

/// Block (s, p, z): partial[s, p, :] = sum of piece p of sequence s, for column block z. Pieces beyond the
/// sequence are not written.
template <class T>
__global__ void __launch_bounds__(row_threads)
    sum_pieces(Sequences sequences, Rows<const T> x, bool is_packed, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  __shared__ A sums[row_threads][lane_columns + 1];  // one column more than needed: no bank conflicts
  const std::int64_t s = blockIdx.x, first = sequences.offsets[s] + std::int64_t{blockIdx.y} * piece_tokens;
  std::int64_t end = sequences.offsets[s + 1];
  if (first >= end) return;
  end = end < first + piece_tokens ? end : first + piece_tokens;
  const std::int64_t column = (std::int64_t{blockIdx.z} * blockDim.x + threadIdx.x) * lane_columns;
  A total[lane_columns] = {};
#pragma unroll 4
  for (std::int64_t r = first + threadIdx.y; r < end; r += blockDim.y) {
    A term[lane_columns] = {};
    if (column < x.width) load_columns(x.data + r * x.stride, column, x.width, is_packed, term);
#pragma unroll
    for (int i = 0; i < lane_columns; ++i) total[i] += term[i];
  }
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x, columns = blockDim.x * lane_columns;
#pragma unroll
  for (int i = 0; i < lane_columns; ++i) sums[thread][i] = total[i];
  __syncthreads();
  if (thread >= columns || blockIdx.z * columns + thread >= x.width) return;
  A sum = 0;
  for (unsigned y = 0; y < blockDim.y; ++y)
    sum += sums[y * blockDim.x + thread / lane_columns][thread % lane_columns];
  partial[(s * gridDim.y + blockIdx.y) * x.width + blockIdx.z * columns + thread] = sum;
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    add_pieces(Sequences sequences, std::int64_t width, std::int64_t pieces, std::int64_t divisor,
               const Accumulate<T>* partial, T* y) {
  using A = Accumulate<T>;
  const std::int64_t s = blockIdx.x;
  const std::int64_t tokens = sequences.offsets[s + 1] - sequences.offsets[s],
                     used = (tokens + piece_tokens - 1) / piece_tokens;
  for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
    A total = 0;
#pragma unroll 8
    for (std::int64_t p = 0; p < used; ++p) total += partial[(s * pieces + p) * width + c];
    y[s * width + c] = from_accumulate<T>(total * mean_scale<A>(sequences, s, divisor));
  }
}

/// Rows of one block of the kernels that write all rows of a batch: they search the first row's sequence.
constexpr int spread_rows = 256;

template <class T>
__global__ void __launch_bounds__(row_threads) spread_mean(Sequences sequences, std::int64_t width, const T* dy,
                                                           std::int64_t divisor, bool is_packed, T* dx) {
  using A = Accumulate<T>;
  const std::int64_t first = std::int64_t{blockIdx.x} * spread_rows,
                     last = first + spread_rows < sequences.tokens ? first + spread_rows : sequences.tokens;
  SequenceWalk walk(sequences, first + threadIdx.y);
  for (std::int64_t r = first + threadIdx.y; r < last; r += blockDim.y) {
    const bool is_inside = walk.reach(r);
    const A scale = is_inside ? A(1) / static_cast<A>(divisor > 0 ? divisor : walk.end - walk.begin) : A(0);
    for (std::int64_t c = threadIdx.x * lane_columns; c < width; c += blockDim.x * lane_columns) {
      A d[lane_columns] = {};
      if (is_inside) load_columns(dy + walk.s * width, c, width, is_packed, d);
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) d[i] *= scale;
      store_columns(dx + r * width, c, width, is_packed, d);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads) take_first(Sequences sequences, Rows<const T> x, T* y) {
  for (std::int64_t s = block_row(); s < sequences.count; s += block_row_step())
    for (std::int64_t c = threadIdx.x; c < x.width; c += blockDim.x)
      y[s * x.width + c] = x.data[sequences.offsets[s] * x.stride + c];
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    spread_first(Sequences sequences, std::int64_t width, const T* dy, bool is_packed, T* dx) {
  using A = Accumulate<T>;
  const std::int64_t first = std::int64_t{blockIdx.x} * spread_rows,
                     last = first + spread_rows < sequences.tokens ? first + spread_rows : sequences.tokens;
  SequenceWalk walk(sequences, first + threadIdx.y);
  for (std::int64_t r = first + threadIdx.y; r < last; r += blockDim.y) {
    const bool is_first = walk.reach(r) && r == walk.begin;
    for (std::int64_t c = threadIdx.x * lane_columns; c < width; c += blockDim.x * lane_columns) {
      A d[lane_columns] = {};
      if (is_first) load_columns(dy + walk.s * width, c, width, is_packed, d);
      store_columns(dx + r * width, c, width, is_packed, d);
    }
  }
}

unsigned spread_blocks(const Sequences& sequences) {
  return static_cast<unsigned>((sequences.tokens + spread_rows - 1) / spread_rows);
}

}  // namespace

template <class T>
std::int64_t embedding_forward(Cuda& cuda, const EmbeddingTables<Accumulate<T>>& tables, std::int64_t count,
                               const DropoutMask& mask, T* y) {
  using A = Accumulate<T>;
  const std::int64_t width = tables.table.width;
  if (count == 0 || width == 0) return -1;
  const bool packed = is_packed<A>(width, tables.table.stride, tables.table.data, tables.place_table.data, y) &&
                      (tables.place_table.data == nullptr || tables.place_table.stride % pack_items<A> == 0);
  const dim3 block = block_shape(width);
  look_up<T><<<grid_rows(cuda, count, block), block, 0, cuda.stream>>>(tables, count, DropoutDraw<A>(mask),
                                                                       packed, cuda.fault, y);
  check_launch("embedding_forward");
  return -1;
}

template <class T>
void sequence_mean_forward(Cuda& cuda, const Sequences& sequences, Rows<const T> x, std::int64_t divisor,
                           T* y) {
  if (sequences.count == 0 || x.width == 0) return;
  const dim3 block = block_shape(x.width);
  const std::int64_t pieces = (sequences.longest + piece_tokens - 1) / piece_tokens;
  const Scratch<Accumulate<T>> partial(cuda, sequences.count * pieces * x.width);
  const std::int64_t columns = std::int64_t{block.x} * lane_columns;
  if (pieces > 0) {
    const dim3 grid(static_cast<unsigned>(sequences.count), static_cast<unsigned>(pieces),
                    static_cast<unsigned>((x.width + columns - 1) / columns));
    sum_pieces<T><<<grid, block, 0, cuda.stream>>>(sequences, x, is_packed<T>(x.width, x.stride, x.data),
                                                   partial.data());
    check_launch("sequence_mean_forward");
  }
  add_pieces<T><<<static_cast<unsigned>(sequences.count), row_threads, 0, cuda.stream>>>(
      sequences, x.width, pieces, divisor, partial.data(), y);
  check_launch("sequence_mean_forward");
}

template <class T>
void sequence_mean_backward(Cuda& cuda, const Sequences& sequences, std::int64_t width, const T* dy,
                            std::int64_t divisor, T* dx) {
  if (sequences.tokens == 0 || width == 0) return;
  const dim3 block = block_shape(width);
  spread_mean<T><<<spread_blocks(sequences), block, 0, cuda.stream>>>(sequences, width, dy, divisor,
                                                                      is_packed<T>(width, width, dy, dx), dx);
  check_launch("sequence_mean_backward");
}

template <class T>
void sequence_first_forward(Cuda& cuda, const Sequences& sequences, Rows<const T> x, T* y) {
  if (sequences.count == 0 || x.width == 0) return;
  const dim3 block = block_shape(x.width);
  take_first<T><<<grid_rows(cuda, sequences.count, block), block, 0, cuda.stream>>>(sequences, x, y);
  check_launch("sequence_first_forward");
}

template <class T>
void sequence_first_backward(Cuda& cuda, const Sequences& sequences, std::int64_t width, const T* dy, T* dx) {
  if (sequences.tokens == 0 || width == 0) return;
  const dim3 block = block_shape(width);
  spread_first<T><<<spread_blocks(sequences), block, 0, cuda.stream>>>(sequences, width, dy,
                                                                       is_packed<T>(width, width, dy, dx), dx);
  check_launch("sequence_first_backward");
}

#define INSTANTIATE(T)                                                                                        \
  template std::int64_t embedding_forward<T>(Cuda&, const EmbeddingTables<Accumulate<T>>&, std::int64_t,      \
                                             const DropoutMask&, T*);                                         \
  template void sequence_mean_forward<T>(Cuda&, const Sequences&, Rows<const T>, std::int64_t, T*);           \
  template void sequence_mean_backward<T>(Cuda&, const Sequences&, std::int64_t, const T*, std::int64_t, T*); \
  template void sequence_first_forward<T>(Cuda&, const Sequences&, Rows<const T>, T*);                        \
  template void sequence_first_backward<T>(Cuda&, const Sequences&, std::int64_t, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
