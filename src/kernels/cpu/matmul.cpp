#include "kernels/matmul.h"

#include <algorithm>

#include "base/blas.h"
#include "base/parallel.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t row_block = 256;   ///< rows of a product that one task computes
constexpr std::int64_t most_chunks = 16;  ///< partial sums of a weight's gradient

std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

/// Rows that one task sums up, whole blocks: a function of the shape alone, so that thread counts change no
/// bits.
std::int64_t chunk_rows(std::int64_t rows) {
  return std::max<std::int64_t>(1, blocks_of(blocks_of(rows, row_block), most_chunks)) * row_block;
}

template <class T>
void add_bias_and_activate(Activation activation, std::int64_t rows, std::int64_t width, const T* bias,
                           T* before, T* y) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* row = y + r * width;
    if (bias != nullptr)
      for (std::int64_t i = 0; i < width; ++i) row[i] += bias[i];
    if (before != nullptr)
      for (std::int64_t i = 0; i < width; ++i) before[r * width + i] = row[i];
    if (activation == Activation::relu)
      for (std::int64_t i = 0; i < width; ++i) row[i] = row[i] <= 0 ? T(0) : row[i];  // NaN passes
    if (activation == Activation::gelu)
      for (std::int64_t i = 0; i < width; ++i) row[i] = gelu(row[i]);
  }
}

/// d = dy times the activation's slope.
template <class T>
void activation_backward(Activation activation, std::int64_t count, const T* saved, const T* dy, T* d) {
  if (activation == Activation::relu)
    for (std::int64_t i = 0; i < count; ++i) d[i] = saved[i] <= 0 ? T(0) : dy[i];
  else
    for (std::int64_t i = 0; i < count; ++i) d[i] = dy[i] * gelu_slope(saved[i]);
}

template <class T>
void add_rows(const T* x, std::int64_t rows, std::int64_t width, T* y) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i) y[i] += x[r * width + i];
}

}  // namespace

template <class T, Isa isa>
void matmul(Cpu<isa>&, const MatmulShape& s, const T* a, const T* b, T beta, T* c) {
  const bool is_transposed_a = s.transpose_a == Transpose::yes,
             is_transposed_b = s.transpose_b == Transpose::yes;
  const std::int64_t lda = std::max<std::int64_t>(1, is_transposed_a ? s.m : s.k);
  const std::int64_t ldb = std::max<std::int64_t>(1, is_transposed_b ? s.k : s.n);
  const std::int64_t blocks = blocks_of(s.m, row_block);
  parallel_for(s.batch * blocks, 1, [&](std::int64_t task) {
    const std::int64_t index = task / blocks, first = task % blocks * row_block;
    const std::int64_t rows = std::min(row_block, s.m - first);
    blas::gemm(is_transposed_a, is_transposed_b, rows, s.n, s.k, T(1),
               a + index * s.stride_a + (is_transposed_a ? first : first * lda), lda, b + index * s.stride_b,
               ldb, beta, c + index * s.stride_c + first * s.n, std::max<std::int64_t>(1, s.n));
  });
}

template <class T, Isa isa>
void linear_forward(Cpu<isa>&, Rows<const T> x, const T* weight, const T* bias, std::int64_t outputs,
                    Activation activation, T* before, T* y) {
  parallel_for(blocks_of(x.rows, row_block), 1, [&](std::int64_t block) {
    const std::int64_t first = block * row_block, rows = std::min(row_block, x.rows - first);
    T* out = y + first * outputs;
    blas::gemm(false, true, rows, outputs, x.width, T(1), x.row(first), x.stride, weight, x.width, T(0), out,
               outputs);
    add_bias_and_activate(activation, rows, outputs, bias, before ? before + first * outputs : nullptr, out);
  });
}

template <class T, Isa isa>
void linear_backward(Cpu<isa>&, Rows<const T> x, const T* weight, std::int64_t outputs, Activation activation,
                     const T* saved, const T* dy, T* dx, T* dweight, T* dbias) {
  const std::int64_t chunk_size = chunk_rows(x.rows);
  const std::int64_t chunks = blocks_of(x.rows, chunk_size), parameters = outputs * x.width;
  const Buffer<T> partial_weight(dweight ? chunks * parameters : 0), partial_bias(dbias ? chunks * outputs : 0),
      slopes(activation == Activation::none ? 0 : chunks * row_block * outputs);
  parallel_for(chunks, 1, [&](std::int64_t chunk) {
    T* block_d = slopes.data() + chunk * row_block * outputs;
    T* chunk_weight = partial_weight.data() + chunk * parameters;
    T* chunk_bias = partial_bias.data() + chunk * outputs;
    if (dbias != nullptr) std::fill(chunk_bias, chunk_bias + outputs, T(0));
    const std::int64_t end = std::min(x.rows, (chunk + 1) * chunk_size);
    for (std::int64_t first = chunk * chunk_size; first < end; first += row_block) {
      const std::int64_t rows = std::min(row_block, end - first);
      const T* d = dy + first * outputs;
      if (activation != Activation::none) {
        activation_backward(activation, rows * outputs, saved + first * outputs, d, block_d);
        d = block_d;
      }
      if (dx != nullptr)
        blas::gemm(false, false, rows, x.width, outputs, T(1), d, outputs, weight, x.width, T(0),
                   dx + first * x.width, x.width);
      if (dweight != nullptr)
        blas::gemm(true, false, outputs, x.width, rows, T(1), d, outputs, x.row(first), x.stride,
                   first == chunk * chunk_size ? T(0) : T(1), chunk_weight, x.width);
      if (dbias != nullptr) add_rows(d, rows, outputs, chunk_bias);
    }
  });
  if (dweight != nullptr) add_rows(partial_weight.data(), chunks, parameters, dweight);
  if (dbias != nullptr) add_rows(partial_bias.data(), chunks, outputs, dbias);
}

#define INSTANTIATE(T)                                                                                         \
  template void matmul<T>(Cpu<TERN_ISA>&, const MatmulShape&, const T*, const T*, T, T*);                      \
  template void linear_forward<T>(Cpu<TERN_ISA>&, Rows<const T>, const T*, const T*, std::int64_t, Activation, \
                                  T*, T*);                                                                     \
  template void linear_backward<T>(Cpu<TERN_ISA>&, Rows<const T>, const T*, std::int64_t, Activation,          \
                                   const T*, const T*, T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
