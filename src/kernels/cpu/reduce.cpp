#include "kernels/reduce.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

/// Rows are summed in fixed chunks, chunk sums in order, so that one long axis uses all threads and any number
/// of threads gives the same bits.
constexpr std::int64_t chunk = 4096;

template <class T>
void add_rows(const T* x, std::int64_t first, std::int64_t last, std::int64_t inner, T* y) {
  for (std::int64_t i = 0; i < inner; ++i) y[i] = 0;
  if (inner == 1) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t l = first; l < last; ++l) total += x[l];
    y[0] = total;
    return;
  }
  for (std::int64_t l = first; l < last; ++l)
    for (std::int64_t i = 0; i < inner; ++i) y[i] += x[l * inner + i];
}

}  // namespace

template <class T, Isa isa>
void sum(Cpu<isa>&, ReduceShape shape, const T* x, T* y) {
  const std::int64_t chunks = std::max<std::int64_t>(1, (shape.length + chunk - 1) / chunk);
  if (chunks == 1) {
    parallel_for(shape.outer, 1 + 4096 / (1 + shape.length * shape.inner), [&](std::int64_t o) {
      add_rows(x + o * shape.length * shape.inner, 0, shape.length, shape.inner, y + o * shape.inner);
    });
    return;
  }
  const Buffer<T> partial(shape.outer * chunks * shape.inner);
  parallel_for(shape.outer * chunks, 1, [&](std::int64_t task) {
    const std::int64_t o = task / chunks, c = task % chunks;
    add_rows(x + o * shape.length * shape.inner, c * chunk, std::min(shape.length, (c + 1) * chunk),
             shape.inner, partial.data() + task * shape.inner);
  });
  parallel_for(shape.outer, 1, [&](std::int64_t o) {
    add_rows(partial.data() + o * chunks * shape.inner, 0, chunks, shape.inner, y + o * shape.inner);
  });
}

template <class T, Isa isa>
void max(Cpu<isa>&, ReduceShape shape, const T* x, T* y, std::int64_t* where) {
  parallel_for(shape.outer, 1, [&](std::int64_t o) {
    const T* block = x + o * shape.length * shape.inner;
    for (std::int64_t i = 0; i < shape.inner; ++i) {
      std::int64_t best = 0;
      for (std::int64_t l = 1; l < shape.length; ++l)
        if (block[l * shape.inner + i] > block[best * shape.inner + i]) best = l;
      y[o * shape.inner + i] = block[best * shape.inner + i];
      where[o * shape.inner + i] = best;
    }
  });
}

template <class T, Isa isa>
void max_backward(Cpu<isa>&, ReduceShape shape, const std::int64_t* where, const T* dy, T* dx) {
  parallel_for(shape.outer, 1, [&](std::int64_t o) {
    T* block = dx + o * shape.length * shape.inner;
    for (std::int64_t i = 0; i < shape.length * shape.inner; ++i) block[i] = 0;
    for (std::int64_t i = 0; i < shape.inner; ++i)
      block[where[o * shape.inner + i] * shape.inner + i] = dy[o * shape.inner + i];
  });
}

#define INSTANTIATE(T)                                                            \
  template void sum<T>(Cpu<TERN_ISA>&, ReduceShape, const T*, T*);                \
  template void max<T>(Cpu<TERN_ISA>&, ReduceShape, const T*, T*, std::int64_t*); \
  template void max_backward<T>(Cpu<TERN_ISA>&, ReduceShape, const std::int64_t*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
