#include "kernels/embedding.h"

#include <algorithm>

#include "base/parallel.h"

namespace tern::kernels {
namespace {

/// Each task owns this many columns of the table (one cache line of float), so that nobody shares a sum.
constexpr std::int64_t columns = 16;

template <class T>
T divisor_of(const Sequences& sequences, std::int64_t s, std::int64_t divisor) {
  const std::int64_t tokens = sequences.offsets[s + 1] - sequences.offsets[s];
  return static_cast<T>(divisor > 0 ? divisor : std::max<std::int64_t>(tokens, 1));
}

}  // namespace

template <class T, Isa isa>
std::int64_t gather_rows(Cpu<isa>&, Rows<const T> table, const std::int32_t* id, std::int64_t count, T* y) {
  for (std::int64_t r = 0; r < count; ++r)
    if (id[r] < 0 || id[r] >= table.rows) return r;
  parallel_for(count, 256, [&](std::int64_t r) {
    const T* from = table.row(id[r]);
    for (std::int64_t c = 0; c < table.width; ++c) y[r * table.width + c] = from[c];
  });
  return -1;
}

template <class T, Isa isa>
void scatter_add_rows(Cpu<isa>&, Rows<const T> dy, const std::int32_t* id, T* table) {
  parallel_for((dy.width + columns - 1) / columns, 1, [&](std::int64_t task) {
    const std::int64_t first = task * columns, count = std::min(columns, dy.width - first);
    for (std::int64_t r = 0; r < dy.rows; ++r) {
      T* to = table + id[r] * dy.width + first;
      const T* from = dy.row(r) + first;
      for (std::int64_t c = 0; c < count; ++c) to[c] += from[c];
    }
  });
}

template <class T, Isa isa>
void sequence_mean_forward(Cpu<isa>&, const Sequences& sequences, Rows<const T> x, std::int64_t divisor, T* y) {
  parallel_for(sequences.count, 1, [&](std::int64_t s) {
    T* to = y + s * x.width;
    std::fill(to, to + x.width, T(0));
    for (std::int64_t r = sequences.offsets[s]; r < sequences.offsets[s + 1]; ++r)
      for (std::int64_t c = 0; c < x.width; ++c) to[c] += x.row(r)[c];
    const T scale = T(1) / divisor_of<T>(sequences, s, divisor);
    for (std::int64_t c = 0; c < x.width; ++c) to[c] *= scale;
  });
}

template <class T, Isa isa>
void sequence_mean_backward(Cpu<isa>&, const Sequences& sequences, std::int64_t width, const T* dy,
                            std::int64_t divisor, T* dx) {
  parallel_for(sequences.count, 1, [&](std::int64_t s) {
    const T scale = T(1) / divisor_of<T>(sequences, s, divisor);
    for (std::int64_t r = sequences.offsets[s]; r < sequences.offsets[s + 1]; ++r)
      for (std::int64_t c = 0; c < width; ++c) dx[r * width + c] = dy[s * width + c] * scale;
  });
}

#define INSTANTIATE(T)                                                                                        \
  template std::int64_t gather_rows<T>(Cpu<TERN_ISA>&, Rows<const T>, const std::int32_t*, std::int64_t, T*); \
  template void scatter_add_rows<T>(Cpu<TERN_ISA>&, Rows<const T>, const std::int32_t*, T*);                  \
  template void sequence_mean_forward<T>(Cpu<TERN_ISA>&, const Sequences&, Rows<const T>, std::int64_t, T*);  \
  template void sequence_mean_backward<T>(Cpu<TERN_ISA>&, const Sequences&, std::int64_t, const T*,           \
                                          std::int64_t, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
