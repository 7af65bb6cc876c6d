#include "kernels/embedding.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/dropout_row.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

/// Each task owns this many columns of the table (one cache line of float), so that nobody shares a sum.
constexpr std::int64_t columns = 16;
/// Rows that are dropped out at a time, before they are added.
constexpr std::int64_t chunk = 4096;

template <class T>
T divisor_of(const Sequences& sequences, std::int64_t s, std::int64_t divisor) {
  const std::int64_t tokens = sequences.offsets[s + 1] - sequences.offsets[s];
  return static_cast<T>(divisor > 0 ? divisor : std::max<std::int64_t>(tokens, 1));
}

/// table[id[r], :] += dy[r, :], in order of r for each row of the table.
template <class T>
void add_columns(Rows<const T> dy, const std::int32_t* id, T* table) {
  parallel_for((dy.width + columns - 1) / columns, 1, [&](std::int64_t task) {
    const std::int64_t first = task * columns, count = std::min(columns, dy.width - first);
    for (std::int64_t r = 0; r < dy.rows; ++r) {
      T* to = table + id[r] * dy.width + first;
      const T* from = dy.row(r) + first;
      for (std::int64_t c = 0; c < count; ++c) to[c] += from[c];
    }
  });
}

}  // namespace

template <class T, Isa isa>
std::int64_t embedding_forward(Cpu<isa>&, const EmbeddingTables<T>& tables, std::int64_t count,
                               const DropoutMask& mask, T* y) {
  const std::int64_t width = tables.table.width;
  for (std::int64_t r = 0; r < count; ++r)
    if (tables.id[r] < 0 || tables.id[r] >= tables.table.rows) return r;
  parallel_for(count, 64, [&](std::int64_t r) {
    const T* from = tables.table.row(tables.id[r]);
    T* const to = y + r * width;
    if (tables.place_table.data == nullptr) {
      std::copy(from, from + width, to);
    } else {
      const T* place = tables.place_table.row(tables.position[r]);
      for (std::int64_t c = 0; c < width; ++c) to[c] = from[c] + place[c];
    }
    if (mask.rate > 0) dropout_row<isa, T>(mask, r, width, to, nullptr, to);
  });
  return -1;
}

template <class T, Isa isa>
void scatter_add_rows(Cpu<isa>&, Rows<const T> dy, const DropoutMask& mask, const std::int32_t* id,
                      std::int64_t, T* table) {
  if (mask.rate == 0) return add_columns(dy, id, table);
  const Buffer<T> dropped(std::min(dy.rows, chunk) * dy.width);
  for (std::int64_t first = 0; first < dy.rows; first += chunk) {
    const std::int64_t count = std::min(chunk, dy.rows - first);
    parallel_for(count, 64, [&](std::int64_t r) {
      dropout_row<isa, T>(mask, first + r, dy.width, dy.row(first + r), nullptr, dropped.data() + r * dy.width);
    });
    add_columns(Rows<const T>{dropped.data(), count, dy.width, dy.width}, id + first, table);
  }
}

template <class T, Isa isa>
void scatter_add_places(Cpu<isa>& cpu, const Sequences& sequences, Rows<const T> dy, const DropoutMask& mask,
                        std::int64_t rows, T* table) {
  dy.rows = sequences.offsets[sequences.count];
  scatter_add_rows<T>(cpu, dy, mask, sequences.position, rows, table);
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
  const std::int64_t end = sequences.offsets[sequences.count];
  if (end < sequences.tokens) std::fill(dx + end * width, dx + sequences.tokens * width, T(0));
}

template <class T, Isa isa>
void sequence_first_forward(Cpu<isa>&, const Sequences& sequences, Rows<const T> x, T* y) {
  parallel_for(sequences.count, 256, [&](std::int64_t s) {
    const T* from = x.row(sequences.offsets[s]);
    std::copy(from, from + x.width, y + s * x.width);
  });
}

template <class T, Isa isa>
void sequence_first_backward(Cpu<isa>&, const Sequences& sequences, std::int64_t width, const T* dy, T* dx) {
  parallel_for(sequences.count, 1, [&](std::int64_t s) {
    const std::int64_t first = sequences.offsets[s],
                       end = s + 1 < sequences.count ? sequences.offsets[s + 1] : sequences.tokens;
    std::copy(dy + s * width, dy + (s + 1) * width, dx + first * width);
    std::fill(dx + (first + 1) * width, dx + end * width, T(0));
  });
}

#define INSTANTIATE(T)                                                                                       \
  template std::int64_t embedding_forward<T>(Cpu<TERN_ISA>&, const EmbeddingTables<T>&, std::int64_t,        \
                                             const DropoutMask&, T*);                                        \
  template void scatter_add_rows<T>(Cpu<TERN_ISA>&, Rows<const T>, const DropoutMask&, const std::int32_t*,  \
                                    std::int64_t, T*);                                                       \
  template void scatter_add_places<T>(Cpu<TERN_ISA>&, const Sequences&, Rows<const T>, const DropoutMask&,   \
                                      std::int64_t, T*);                                                     \
  template void sequence_mean_forward<T>(Cpu<TERN_ISA>&, const Sequences&, Rows<const T>, std::int64_t, T*); \
  template void sequence_mean_backward<T>(Cpu<TERN_ISA>&, const Sequences&, std::int64_t, const T*,          \
                                          std::int64_t, T*);                                                 \
  template void sequence_first_forward<T>(Cpu<TERN_ISA>&, const Sequences&, Rows<const T>, T*);              \
  template void sequence_first_backward<T>(Cpu<TERN_ISA>&, const Sequences&, std::int64_t, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
