// Dropout of contiguous or strided rows. Deterministic. A thread takes the eight columns of one Philox block:
// memory-bound, one read and one write of the data.
#include "kernels/cuda/dropout.cuh"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// y[r, c] = factor * x[r, c]; `is_packed`: all groups of eight are whole and aligned.
template <class T>
__global__ void dropout_kernel(Rows<const T> x, DropoutDraw<Accumulate<T>> draw, bool is_packed, T* y) {
  using A = Accumulate<T>;
  constexpr int items = pack_items<T>;
  const std::int64_t groups = (x.width + dropout_columns - 1) / dropout_columns;
  const std::uint32_t step = draw.step();
  for (std::int64_t task = thread_index(); task < x.rows * groups; task += grid_threads()) {
    const std::int64_t r = task / groups, column = (task - r * groups) * dropout_columns;
    const T* from = x.data + r * x.stride + column;
    T* to = y + r * x.width + column;
    Pack<T, items> pack[dropout_columns / items];
    if (is_packed) {  // on their way while the block is drawn
#pragma unroll
      for (int p = 0; p < dropout_columns / items; ++p) pack[p] = load_pack<items>(from + p * items);
    }
    A factor[dropout_columns];
    draw.factors(draw.row(r, step), static_cast<std::uint32_t>(column), factor);
    if (is_packed) {
#pragma unroll
      for (int c = 0; c < dropout_columns; ++c) {
        T& item = pack[c / items].item[c % items];
        item = factor[c] == A(0) ? from_accumulate<T>(0) : from_accumulate<T>(factor[c] * to_accumulate(item));
      }
#pragma unroll
      for (int p = 0; p < dropout_columns / items; ++p) store_pack(to + p * items, pack[p]);
    } else {
#pragma unroll
      for (int c = 0; c < dropout_columns; ++c)
        if (column + c < x.width)
          to[c] = factor[c] == A(0) ? from_accumulate<T>(0)
                                    : from_accumulate<T>(factor[c] * to_accumulate(from[c]));
    }
  }
}

}  // namespace

template <class T>
void dropout(Cuda& cuda, Rows<const T> x, const DropoutMask& mask, T* y) {
  if (x.rows == 0 || x.width == 0) return;
  const bool is_packed = x.width % dropout_columns == 0 &&
                         x.stride * static_cast<std::int64_t>(sizeof(T)) % 16 == 0 && is_aligned(16, x.data, y);
  const std::int64_t tasks = x.rows * ((x.width + dropout_columns - 1) / dropout_columns);
  dropout_kernel<T><<<grid_for(cuda, tasks, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      x, DropoutDraw<Accumulate<T>>(mask), is_packed, y);
  check_launch("dropout");
}

template void dropout<float>(Cuda&, Rows<const float>, const DropoutMask&, float*);
template void dropout<double>(Cuda&, Rows<const double>, const DropoutMask&, double*);
template void dropout<bfloat16>(Cuda&, Rows<const bfloat16>, const DropoutMask&, bfloat16*);

}  // namespace tern::kernels
