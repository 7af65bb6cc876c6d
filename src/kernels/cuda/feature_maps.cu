// Feature maps. Deterministic. Memory-bound: every row is read once in 16-byte packs, or element by element
// where pointers, strides or widths are not aligned to them.
#include <cmath>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/feature_maps.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// A thread takes one pack of a row at a time.
template <int items, class T>
__global__ void __launch_bounds__(threads_per_block) elu_plus_one_rows(Heads<const T> x, T* y) {
  using A = Accumulate<T>;
  const int packs = x.width / items;
  const std::int64_t count = x.tokens * x.heads * packs;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t row = i / packs;
    const int column = static_cast<int>(i % packs) * items;
    const Pack<T, items> from =
        load_pack<items>(row_of(x, row / x.heads, static_cast<int>(row % x.heads)) + column);
    Pack<T, items> to;
#pragma unroll
    for (int c = 0; c < items; ++c) {
      const A value = to_accumulate(from.item[c]);
      to.item[c] = from_accumulate<T>(value > 0 ? value + 1 : std::exp(value));
    }
    store_pack(y + row * x.width + column, to);
  }
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    elu_plus_one_slopes(std::int64_t packs, const T* y, const T* dy, T* dx) {
  using A = Accumulate<T>;
  for (std::int64_t i = thread_index(); i < packs; i += grid_threads()) {
    const Pack<T, items> value = load_pack<items>(y + i * items), slope = load_pack<items>(dy + i * items);
    Pack<T, items> to;
#pragma unroll
    for (int c = 0; c < items; ++c) {
      const A factor = to_accumulate(value.item[c]);
      to.item[c] = from_accumulate<T>((factor > 1 ? A(1) : factor) * to_accumulate(slope.item[c]));
    }
    store_pack(dx + i * items, to);
  }
}

}  // namespace

template <class T>
void elu_plus_one_forward(Cuda& cuda, Heads<const T> x, T* y) {
  const std::int64_t count = x.tokens * x.heads * x.width;
  if (count == 0) return;
  constexpr int items = pack_items<T>;
  const bool is_packed = rows_are_packed(x) && is_aligned(16, y);
  const unsigned blocks = grid_for(cuda, is_packed ? count / items : count, threads_per_block, 16);
  if (is_packed)
    elu_plus_one_rows<items, T><<<blocks, threads_per_block, 0, cuda.stream>>>(x, y);
  else
    elu_plus_one_rows<1, T><<<blocks, threads_per_block, 0, cuda.stream>>>(x, y);
  check_launch("elu_plus_one_forward");
}

template <class T>
void elu_plus_one_backward(Cuda& cuda, std::int64_t count, const T* y, const T* dy, T* dx) {
  if (count == 0) return;
  constexpr int items = pack_items<T>;
  const bool is_packed = is_aligned(16, y, dy, dx) && count % items == 0;
  const unsigned blocks = grid_for(cuda, is_packed ? count / items : count, threads_per_block, 16);
  if (is_packed)
    elu_plus_one_slopes<items, T><<<blocks, threads_per_block, 0, cuda.stream>>>(count / items, y, dy, dx);
  else
    elu_plus_one_slopes<1, T><<<blocks, threads_per_block, 0, cuda.stream>>>(count, y, dy, dx);
  check_launch("elu_plus_one_backward");
}

#define INSTANTIATE(T)                                              \
  template void elu_plus_one_forward<T>(Cuda&, Heads<const T>, T*); \
  template void elu_plus_one_backward<T>(Cuda&, std::int64_t, const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
