#include "kernels/depthwise_conv.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

/// Calls body(token, neighbour, tap) for every token of sequence s and every present neighbour inside the
/// window. Positions rise inside a sequence, so the first neighbour moves forward only.
template <class Body>
void for_each_tap(const Sequences& sequences, std::int64_t s, int window, const Body& body) {
  std::int64_t first = sequences.offsets[s];
  for (std::int64_t i = first; i < sequences.offsets[s + 1]; ++i) {
    const std::int64_t low = sequences.position[i] - window / 2;
    while (sequences.position[first] < low) ++first;
    for (std::int64_t j = first; j < sequences.offsets[s + 1] && sequences.position[j] - low < window; ++j)
      body(i, j, static_cast<int>(sequences.position[j] - low));
  }
}

/// `data` as packed rows with the heads of `x`.
template <class T>
Heads<T> packed_like(const Heads<const T>& x, T* data) {
  return {data, x.tokens, x.heads, x.width, std::int64_t{x.heads} * x.width, x.width};
}

}  // namespace

template <class T, Isa isa>
void depthwise_conv_forward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const T* weight,
                            int window, T* y) {
  clear_unused(sequences, packed_like(x, y));
  parallel_for(sequences.count * x.heads, 1, [&](std::int64_t task) {
    const std::int64_t s = task / x.heads;
    const int head = static_cast<int>(task % x.heads);
    const auto out = [&](std::int64_t i) { return y + (i * x.heads + head) * x.width; };
    for (std::int64_t i = sequences.offsets[s]; i < sequences.offsets[s + 1]; ++i)
      std::fill(out(i), out(i) + x.width, T(0));
    for_each_tap(sequences, s, window, [&](std::int64_t i, std::int64_t j, int tap) {
      const T w = weight[head * window + tap];
      const T* from = x.row(j, head);
      T* to = out(i);
      for (int c = 0; c < x.width; ++c) to[c] += w * from[c];
    });
  });
}

template <class T, Isa isa>
void depthwise_conv_backward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const T* weight,
                             int window, const T* dy, T* dx, T* dweight) {
  if (dx != nullptr) clear_unused(sequences, packed_like(x, dx));
  const std::int64_t tasks = sequences.count * x.heads;
  const Buffer<T> partial(tasks * window);
  parallel_for(tasks, 1, [&](std::int64_t task) {
    const std::int64_t s = task / x.heads;
    const int head = static_cast<int>(task % x.heads);
    const auto packed = [&](auto* base, std::int64_t i) { return base + (i * x.heads + head) * x.width; };
    T* sums = partial.data() + task * window;
    std::fill(sums, sums + window, T(0));
    if (dx != nullptr)
      for (std::int64_t i = sequences.offsets[s]; i < sequences.offsets[s + 1]; ++i)
        std::fill(packed(dx, i), packed(dx, i) + x.width, T(0));
    for_each_tap(sequences, s, window, [&](std::int64_t i, std::int64_t j, int tap) {
      const T *d = packed(dy, i), *from = x.row(j, head);
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int c = 0; c < x.width; ++c) dot += d[c] * from[c];
      sums[tap] += dot;
      if (dx == nullptr) return;
      T* to = packed(dx, j);
      const T w = weight[head * window + tap];
      for (int c = 0; c < x.width; ++c) to[c] += w * d[c];
    });
  });
  if (dweight == nullptr) return;
  for (std::int64_t task = 0; task < tasks; ++task)
    for (int tap = 0; tap < window; ++tap)
      dweight[task % x.heads * window + tap] += partial[task * window + tap];
}

#define INSTANTIATE(T)                                                                                      \
  template void depthwise_conv_forward<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, const T*, int,  \
                                          T*);                                                              \
  template void depthwise_conv_backward<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, const T*, int, \
                                           const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
