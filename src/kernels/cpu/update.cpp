#include "kernels/update.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t block = 16384;

}  // namespace

template <class T, Isa isa>
double sum_of_squares(Cpu<isa>&, std::int64_t count, const T* x) {
  const std::int64_t blocks = (count + block - 1) / block;
  const Buffer<double> partial(blocks);
  parallel_for(blocks, 1, [&](std::int64_t b) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t i = b * block; i < std::min(count, (b + 1) * block); ++i)
      total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    partial[b] = total;
  });
  double total = 0;
  for (std::int64_t b = 0; b < blocks; ++b) total += partial[b];
  return total;
}

template <class T, Isa isa>
void adamw(Cpu<isa>&, std::int64_t count, const AdamStep& step, const T* gradient, T* m, T* v, T* w) {
  const T beta1 = static_cast<T>(step.beta1), beta2 = static_cast<T>(step.beta2),
          epsilon = static_cast<T>(step.epsilon);
  const T rest1 = static_cast<T>(1 - step.beta1), rest2 = static_cast<T>(1 - step.beta2);
  const T shrink = static_cast<T>(1 - step.rate * step.weight_decay),
          scale = static_cast<T>(step.gradient_scale);
  const T rate = static_cast<T>(step.rate / step.correction1),
          root = static_cast<T>(1 / std::sqrt(step.correction2));
  parallel_for((count + block - 1) / block, 1, [&](std::int64_t b) {
    for (std::int64_t i = b * block; i < std::min(count, (b + 1) * block); ++i) {
      const T g = gradient[i] * scale;
      m[i] = beta1 * m[i] + rest1 * g;
      v[i] = beta2 * v[i] + rest2 * g * g;
      w[i] = w[i] * shrink - rate * m[i] / (std::sqrt(v[i]) * root + epsilon);
    }
  });
}

#define INSTANTIATE(T)                                                       \
  template double sum_of_squares<T>(Cpu<TERN_ISA>&, std::int64_t, const T*); \
  template void adamw<T>(Cpu<TERN_ISA>&, std::int64_t, const AdamStep&, const T*, T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
