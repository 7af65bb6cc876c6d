// Products of the BLAS, one thread each. Long sequences are cut into chunks of a fixed size, whose sums are
// added in order.
#include "kernels/sequence_products.h"

#include <algorithm>

#include "base/blas.h"
#include "base/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t chunk_tokens = 4096;  ///< tokens of one partial sum
constexpr std::int64_t block_tokens = 256;   ///< rows of a product that one task computes

std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

/// The matrix and the total of `rows` tokens from `first`.
template <class T>
void sum_chunk(const OuterSums<T>& in, std::int64_t first, std::int64_t rows, int head, T* matrix, T* total) {
  const std::int64_t r = in.a.width, d = in.b.width;
  if (rows == 0)
    std::fill(matrix, matrix + r * d, T(0));
  else
    blas::gemm(true, false, r, d, rows, T(1), in.a.row(first, head), in.a.token_stride, in.b.row(first, head),
               in.b.token_stride, T(0), matrix, d);
  if (total == nullptr) return;
  std::fill(total, total + r, T(0));
  for (std::int64_t t = first; t < first + rows; ++t) {
    const T weight = in.weights ? in.weights[t * in.a.heads + head] : T(1);
    const T* row = in.a.row(t, head);
    for (std::int64_t i = 0; i < r; ++i) total[i] += weight * row[i];
  }
}

template <class T>
T dot(const T* a, const T* b, std::int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

/// What follows the products of `rows` tokens from `first`; `vector` belongs to their sequence and head.
template <class T>
void use_totals(const RowProducts<T>& in, std::int64_t first, std::int64_t rows, int head, const T* vector) {
  const RowTotals<T>& totals = in.totals;
  for (std::int64_t t = first; t < first + rows; ++t) {
    T* y = in.y.row(t, head);
    const std::int64_t place = t * in.x.heads + head;
    if (totals.use == RowTotals<T>::Use::divide) {
      const T divisor = dot(in.x.row(t, head), vector, in.x.width) + static_cast<T>(totals.epsilon);
      totals.divisors[place] = divisor;
      for (int i = 0; i < in.y.width; ++i) y[i] /= divisor;
    } else {
      const T weight = totals.weights ? totals.weights[place] : T(1);
      for (int i = 0; i < in.y.width; ++i) y[i] += weight * vector[i];
    }
  }
}

}  // namespace

template <class T, Isa isa>
void outer_sums(Cpu<isa>&, const Sequences& sequences, const OuterSums<T>& in) {
  const std::int64_t heads = in.a.heads, size = std::int64_t{in.a.width} * in.b.width, width = in.a.width;
  const std::int64_t chunks = std::max<std::int64_t>(1, blocks_of(sequences.longest, chunk_tokens));
  const std::int64_t entry = size + width;  // a partial matrix, then its total
  const Buffer<T> partial(chunks > 1 ? sequences.count * heads * (chunks - 1) * entry : 0);
  parallel_for(sequences.count * heads * chunks, 1, [&](std::int64_t task) {
    const std::int64_t pair = task / chunks, chunk = task % chunks, s = pair / heads;
    const std::int64_t first = sequences.offsets[s] + chunk * chunk_tokens,
                       rows = std::min(chunk_tokens, sequences.offsets[s + 1] - first);
    if (chunk > 0 && rows <= 0) return;
    T* const own =
        chunk == 0 ? in.matrices + pair * size : partial.data() + (pair * (chunks - 1) + chunk - 1) * entry;
    T* const total = in.totals == nullptr ? nullptr : chunk == 0 ? in.totals + pair * width : own + size;
    sum_chunk(in, first, std::max<std::int64_t>(rows, 0), static_cast<int>(pair % heads), own, total);
  });
  if (chunks == 1) return;
  parallel_for(sequences.count * heads, 1, [&](std::int64_t pair) {
    const std::int64_t s = pair / heads;
    const std::int64_t used = blocks_of(sequences.offsets[s + 1] - sequences.offsets[s], chunk_tokens);
    for (std::int64_t chunk = 1; chunk < used; ++chunk) {
      const T* own = partial.data() + (pair * (chunks - 1) + chunk - 1) * entry;
      for (std::int64_t i = 0; i < size; ++i) in.matrices[pair * size + i] += own[i];
      for (std::int64_t i = 0; in.totals && i < width; ++i) in.totals[pair * width + i] += own[size + i];
    }
  });
}

template <class T, Isa isa>
void row_products(Cpu<isa>&, const Sequences& sequences, const RowProducts<T>& in) {
  clear_unused(sequences, in.y);
  const bool divides = in.totals.use == RowTotals<T>::Use::divide;
  if (divides)
    std::fill(in.totals.divisors + sequences.offsets[sequences.count] * in.x.heads,
              in.totals.divisors + in.x.tokens * in.x.heads, T(1));
  const std::int64_t heads = in.x.heads, depth = in.x.width, width = in.y.width;
  const std::int64_t blocks = blocks_of(sequences.longest, block_tokens);
  const bool is_transposed = in.order == MatrixOrder::transposed;
  parallel_for(sequences.count * heads * blocks, 1, [&](std::int64_t task) {
    const std::int64_t pair = task / blocks, s = pair / heads;
    const int head = static_cast<int>(pair % heads);
    const std::int64_t first = sequences.offsets[s] + task % blocks * block_tokens,
                       rows = std::min(block_tokens, sequences.offsets[s + 1] - first);
    if (rows <= 0) return;
    blas::gemm(false, is_transposed, rows, width, depth, T(1), in.x.row(first, head), in.x.token_stride,
               in.matrices + pair * depth * width, is_transposed ? depth : width, T(0), in.y.row(first, head),
               in.y.token_stride);
    if (in.totals.use != RowTotals<T>::Use::none)
      use_totals(in, first, rows, head, in.totals.vectors + pair * (divides ? depth : width));
  });
}

template <class T, Isa isa>
void divided_rows_backward(Cpu<isa>&, Heads<const T> y, Heads<const T> dy, const T* divisors, T* dn,
                           T* ddivisors) {
  parallel_for(y.tokens, 64, [&](std::int64_t t) {
    for (int head = 0; head < y.heads; ++head) {
      const std::int64_t place = t * y.heads + head;
      const T *d = dy.row(t, head), factor = T(1) / divisors[place];
      ddivisors[place] = -dot(d, y.row(t, head), y.width) * factor;
      for (int i = 0; i < y.width; ++i) dn[place * y.width + i] = d[i] * factor;
    }
  });
}

#define INSTANTIATE(T)                                                                    \
  template void outer_sums<T>(Cpu<TERN_ISA>&, const Sequences&, const OuterSums<T>&);     \
  template void row_products<T>(Cpu<TERN_ISA>&, const Sequences&, const RowProducts<T>&); \
  template void divided_rows_backward<T>(Cpu<TERN_ISA>&, Heads<const T>, Heads<const T>, const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
