// Rotary positions. A thread turns one pair of columns; neighbouring threads take neighbouring pairs. Rows of
// unused capacity are turned by their position 0, that is, copied. Deterministic; reads x once and writes y
// once.
#include "kernels/cuda/block.cuh"
#include "kernels/rotary.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    rotate_kernel(Heads<const T> x, Rotation<Accumulate<T>> rotation, T* y) {
  using A = Accumulate<T>;
  const std::int64_t pairs = x.width / 2, count = x.tokens * x.heads * pairs;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t row = i / pairs, token = row / x.heads, column = 2 * (i - row * pairs);
    const T* from = x.data + token * x.token_stride + (row - token * x.heads) * x.head_stride + column;
    const A* table = rotation.sinusoids + rotation.position[token] * std::int64_t{x.width} + column;
    const A sine = rotation.is_inverse ? -table[0] : table[0], cosine = table[1];
    const A even = to_accumulate(from[0]), odd = to_accumulate(from[1]);
    T* to = y + row * x.width + column;
    to[0] = from_accumulate<T>(even * cosine - odd * sine);
    to[1] = from_accumulate<T>(even * sine + odd * cosine);
  }
}

}  // namespace

template <class T>
void rotate_rows(Cuda& cuda, Heads<const T> x, const Rotation<Accumulate<T>>& rotation, T* y) {
  const std::int64_t count = x.tokens * x.heads * (x.width / 2);
  if (count == 0) return;
  rotate_kernel<T>
      <<<grid_for(cuda, count, threads_per_block, 16), threads_per_block, 0, cuda.stream>>>(x, rotation, y);
  check_launch("rotate_rows");
}

#define INSTANTIATE(T) template void rotate_rows<T>(Cuda&, Heads<const T>, const Rotation<Accumulate<T>>&, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
