#include "kernels/softmax.h"

#include "base/parallel.h"
#include "kernels/cpu/math.h"

namespace tern::kernels {
namespace {

template <class T>
T largest(const T* x, std::int64_t width) {
  T best = x[0];
#pragma omp simd reduction(max : best)
  for (std::int64_t i = 1; i < width; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

/// y = exp(x - max), returns the sum.
template <class T>
T exponentials(const T* x, std::int64_t width, T* y) {
  const T best = largest(x, width);
  T total = 0;
  for (std::int64_t i = 0; i < width; ++i) y[i] = exponential(x[i] - best);
#pragma omp simd reduction(+ : total)
  for (std::int64_t i = 0; i < width; ++i) total += y[i];
  return total;
}

}  // namespace

template <class T, Isa isa>
void softmax_forward(Cpu<isa>&, Rows<const T> x, Rows<T> y) {
  parallel_for(x.rows, 16, [&](std::int64_t r) {
    const T scale = T(1) / exponentials(x.row(r), x.width, y.row(r));
    for (std::int64_t i = 0; i < x.width; ++i) y.row(r)[i] *= scale;
  });
}

template <class T, Isa isa>
void softmax_backward(Cpu<isa>&, Rows<const T> y, Rows<const T> dy, Rows<T> dx) {
  parallel_for(y.rows, 16, [&](std::int64_t r) {
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < y.width; ++i) dot += y.row(r)[i] * dy.row(r)[i];
    for (std::int64_t i = 0; i < y.width; ++i) dx.row(r)[i] = y.row(r)[i] * (dy.row(r)[i] - dot);
  });
}

template <class T, Isa isa>
std::int64_t cross_entropy_forward(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, T* loss) {
  for (std::int64_t r = 0; r < x.rows; ++r)
    if (label[r] < 0 || label[r] >= x.width) return r;
  parallel_for(x.rows, 16, [&](std::int64_t r) {
    const T best = largest(x.row(r), x.width);
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t i = 0; i < x.width; ++i) total += exponential(x.row(r)[i] - best);
    loss[r] = std::log(total) + best - x.row(r)[label[r]];
  });
  return -1;
}

template <class T, Isa isa>
void cross_entropy_backward(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, const T* dloss, Rows<T> dx) {
  parallel_for(x.rows, 16, [&](std::int64_t r) {
    const T scale = dloss[r] / exponentials(x.row(r), x.width, dx.row(r));
    for (std::int64_t i = 0; i < x.width; ++i) dx.row(r)[i] *= scale;
    dx.row(r)[label[r]] -= dloss[r];
  });
}

template <class T, Isa isa>
void add_score(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, const T* loss, const T* weight,
               ScoreTotals* score) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    if (weight != nullptr && weight[r] == 0) continue;
    const T* row = x.row(r);
    score->loss += static_cast<double>(loss[r]);
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < x.width; ++i)
      if (row[i] > row[best]) best = i;
    score->correct += best == label[r] ? 1.0 : 0.0;
    score->examples += 1;
  }
}

template <class A, Isa isa>
void add_losses(Cpu<isa>&, const A* loss, std::int64_t rows, ScoreTotals* score) {
  for (std::int64_t r = 0; r < rows; ++r) score->loss += static_cast<double>(loss[r]);
  score->examples += static_cast<double>(rows);
}

#define INSTANTIATE(T)                                                                                    \
  template void softmax_forward<T>(Cpu<TERN_ISA>&, Rows<const T>, Rows<T>);                               \
  template void softmax_backward<T>(Cpu<TERN_ISA>&, Rows<const T>, Rows<const T>, Rows<T>);               \
  template std::int64_t cross_entropy_forward<T>(Cpu<TERN_ISA>&, Rows<const T>, const std::int32_t*, T*); \
  template void cross_entropy_backward<T>(Cpu<TERN_ISA>&, Rows<const T>, const std::int32_t*, const T*,   \
                                          Rows<T>);                                                       \
  template void add_score<T>(Cpu<TERN_ISA>&, Rows<const T>, const std::int32_t*, const T*, const T*,      \
                             ScoreTotals*);                                                               \
  template void add_losses<T>(Cpu<TERN_ISA>&, const T*, std::int64_t, ScoreTotals*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
