#include "kernels/layer_norm.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/dropout_row.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

/// Rows whose parameter gradients are summed together; fixed, so that thread counts cannot change the sums.
constexpr std::int64_t chunk = 512;

template <class T>
T sum_of(const T* x, std::int64_t width) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t i = 0; i < width; ++i) total += x[i];
  return total;
}

template <class T>
void normalize_row(const T* x, std::int64_t width, const T* weight, const T* bias, T epsilon, T* y, T& mean,
                   T& inverse_deviation) {
  mean = sum_of(x, width) / static_cast<T>(width);
  T variance = 0;
#pragma omp simd reduction(+ : variance)
  for (std::int64_t i = 0; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean);
  inverse_deviation = T(1) / std::sqrt(variance / static_cast<T>(width) + epsilon);
  for (std::int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse_deviation * weight[i] + bias[i];
}

template <class T>
void normalize_row_backward(const T* x, std::int64_t width, const T* weight, T mean, T inverse_deviation,
                            const T* dy, const T* dtotal, T* dx, T* dweight, T* dbias) {
  T sum_d = 0, sum_dx = 0;
#pragma omp simd reduction(+ : sum_d, sum_dx)
  for (std::int64_t i = 0; i < width; ++i) {
    const T normalized = (x[i] - mean) * inverse_deviation, d = dy[i] * weight[i];
    dweight[i] += dy[i] * normalized;
    dbias[i] += dy[i];
    sum_d += d;
    sum_dx += d * normalized;
  }
  const T mean_d = sum_d / static_cast<T>(width), mean_dx = sum_dx / static_cast<T>(width);
  for (std::int64_t i = 0; i < width; ++i) {
    const T normalized = (x[i] - mean) * inverse_deviation;
    const T d = inverse_deviation * (dy[i] * weight[i] - mean_d - normalized * mean_dx);
    dx[i] = dtotal ? dtotal[i] + d : d;
  }
}

}  // namespace

template <class T, Isa isa>
void layer_norm_forward(Cpu<isa>&, Rows<const T> x, const T* branch, const DropoutMask& mask, T* total,
                        const T* weight, const T* bias, T epsilon, T* y, NormStatistics<T> statistics) {
  parallel_for(x.rows, 64, [&](std::int64_t r) {
    const T* row = x.row(r);
    if (branch != nullptr) {
      T* sum = total + r * x.width;
      if (mask.rate > 0)
        dropout_row<isa>(mask, r, x.width, branch + r * x.width, row, sum);
      else
        for (std::int64_t i = 0; i < x.width; ++i) sum[i] = row[i] + branch[r * x.width + i];
      row = sum;
    }
    normalize_row(row, x.width, weight, bias, epsilon, y + r * x.width, statistics.mean[r],
                  statistics.inverse_deviation[r]);
  });
}

template <class T, Isa isa>
void layer_norm_backward(Cpu<isa>&, Rows<const T> x, const T* weight, NormStatistics<const T> statistics,
                         const T* dy, const T* dtotal, T* dx, const DropoutMask& mask, T* dbranch, T* dweight,
                         T* dbias) {
  const std::int64_t chunks = (x.rows + chunk - 1) / chunk, width = x.width;
  const Buffer<T> partial(chunks * 2 * width);
  parallel_for(chunks, 1, [&](std::int64_t c) {
    T *partial_weight = partial.data() + c * 2 * width, *partial_bias = partial_weight + width;
    std::fill(partial_weight, partial_weight + 2 * width, T(0));
    for (std::int64_t r = c * chunk; r < std::min(x.rows, (c + 1) * chunk); ++r) {
      T* const gradient = dx + r * width;
      normalize_row_backward(x.row(r), width, weight, statistics.mean[r], statistics.inverse_deviation[r],
                             dy + r * width, dtotal ? dtotal + r * width : nullptr, gradient, partial_weight,
                             partial_bias);
      if (dbranch == nullptr) continue;
      if (mask.rate > 0)
        dropout_row<isa, T>(mask, r, width, gradient, nullptr, dbranch + r * width);
      else
        std::copy(gradient, gradient + width, dbranch + r * width);
    }
  });
  for (std::int64_t c = 0; c < chunks; ++c) {
    for (std::int64_t i = 0; i < width; ++i) dweight[i] += partial[c * 2 * width + i];
    for (std::int64_t i = 0; i < width; ++i) dbias[i] += partial[c * 2 * width + width + i];
  }
}

template <class T, Isa isa>
void unit_rows_forward(Cpu<isa>&, Heads<const T> x, Heads<T> y, Heads<T> norm) {
  parallel_for(x.tokens, 64, [&](std::int64_t token) {
    for (int head = 0; head < x.heads; ++head) {
      const T* from = x.row(token, head);
      T* to = y.row(token, head);
      T square = 0;
#pragma omp simd reduction(+ : square)
      for (int i = 0; i < x.width; ++i) square += from[i] * from[i];
      const T length = std::sqrt(square), scale = T(1) / std::max(length, T(smallest_norm));
      for (int i = 0; i < x.width; ++i) to[i] = from[i] * scale;
      *norm.row(token, head) = length;
    }
  });
}

template <class T, Isa isa>
void unit_rows_backward(Cpu<isa>&, const UnitRows<T>& y, Heads<const T> dy, Heads<T> dx) {
  parallel_for(dy.tokens, 64, [&](std::int64_t token) {
    for (int head = 0; head < dy.heads; ++head) {
      const T *row = y.rows.row(token, head), *from = dy.row(token, head);
      T* to = dx.row(token, head);
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int i = 0; i < dy.width; ++i) dot += row[i] * from[i];
      const T length = *y.norm.row(token, head), scale = length < T(smallest_norm) ? T(0) : T(1) / length;
      for (int i = 0; i < dy.width; ++i) to[i] = (from[i] - row[i] * dot) * scale;
    }
  });
}

#define INSTANTIATE(T)                                                                                   \
  template void layer_norm_forward<T>(Cpu<TERN_ISA>&, Rows<const T>, const T*, const DropoutMask&, T*,   \
                                      const T*, const T*, T, T*, NormStatistics<T>);                     \
  template void layer_norm_backward<T>(Cpu<TERN_ISA>&, Rows<const T>, const T*, NormStatistics<const T>, \
                                       const T*, const T*, T*, const DropoutMask&, T*, T*, T*);          \
  template void unit_rows_forward<T>(Cpu<TERN_ISA>&, Heads<const T>, Heads<T>, Heads<T>);                \
  template void unit_rows_backward<T>(Cpu<TERN_ISA>&, const UnitRows<T>&, Heads<const T>, Heads<T>);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
