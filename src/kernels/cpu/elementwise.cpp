#include "kernels/elementwise.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/math.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t block = 8192;

/// Calls body(first, last) for consecutive ranges of [0, count).
template <class Body>
void for_each_block(std::int64_t count, const Body& body) {
  parallel_for((count + block - 1) / block, 1,
               [&](std::int64_t b) { body(b * block, std::min(count, (b + 1) * block)); });
}

/// Calls body(f, slope) with the scalar function of `op` and its derivative.
template <class T, class Body>
void with_unary(Unary op, const Body& body) {
  const auto one = T(1);
  switch (op) {
    case Unary::relu:
      // a NaN must pass, or it would vanish before anybody sees it
      return body([](T x) { return x <= 0 ? T(0) : x; }, [](T x) { return x <= 0 ? T(0) : T(1); });
    case Unary::gelu:
      return body([](T x) { return gelu(x); }, [](T x) { return gelu_slope(x); });
    case Unary::exp:
      // not the fast form, which saturates and would hide an overflow
      return body([](T x) { return std::exp(x); }, [](T x) { return std::exp(x); });
    case Unary::log:
      return body([](T x) { return std::log(x); }, [one](T x) { return one / x; });
    case Unary::sqrt:
      return body([](T x) { return std::sqrt(x); }, [](T x) { return T(0.5) / std::sqrt(x); });
    case Unary::square:
      return body([](T x) { return x * x; }, [](T x) { return 2 * x; });
    case Unary::reciprocal:
      return body([one](T x) { return one / x; }, [](T x) { return T(-1) / (x * x); });
    case Unary::tanh:
      return body([](T x) { return std::tanh(x); },
                  [one](T x) {
                    const T y = std::tanh(x);
                    return one - y * y;
                  });
    case Unary::sigmoid:
      return body([one](T x) { return one / (one + exponential(-x)); },
                  [one](T x) {
                    const T y = one / (one + exponential(-x));
                    return y * (one - y);
                  });
  }
}

template <class T, class Body>
void with_binary(Binary op, const Body& body) {
  const auto one = [](T, T) { return T(1); };
  switch (op) {
    case Binary::add:
      return body([](T a, T b) { return a + b; }, one, one);
    case Binary::subtract:
      return body([](T a, T b) { return a - b; }, one, [](T, T) { return T(-1); });
    case Binary::multiply:
      return body([](T a, T b) { return a * b; }, [](T, T b) { return b; }, [](T a, T) { return a; });
    case Binary::divide:
      return body([](T a, T b) { return a / b; }, [](T, T b) { return T(1) / b; },
                  [](T a, T b) { return -a / (b * b); });
  }
}

}  // namespace

template <class T, Isa isa>
void unary_forward(Cpu<isa>&, Unary op, std::int64_t count, const T* x, T* y) {
  with_unary<T>(op, [&](auto f, auto) {
    for_each_block(count, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) y[i] = f(x[i]);
    });
  });
}

template <class T, Isa isa>
void unary_backward(Cpu<isa>&, Unary op, std::int64_t count, const T* x, const T* dy, T* dx) {
  with_unary<T>(op, [&](auto, auto slope) {
    for_each_block(count, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) dx[i] = dy[i] * slope(x[i]);
    });
  });
}

template <class T, Isa isa>
void affine(Cpu<isa>&, std::int64_t count, Accumulate<T> alpha, Accumulate<T> beta, const T* x, T* y) {
  for_each_block(count, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) y[i] = alpha * x[i] + beta;
  });
}

template <class T, Isa isa>
void binary_forward(Cpu<isa>&, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b, T* y) {
  with_binary<T>(op, [&](auto f, auto, auto) {
    if (rows == 1) {
      for_each_block(width, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) y[i] = f(a[i], b[i]);
      });
      return;
    }
    parallel_for(rows, std::max<std::int64_t>(1, block / std::max<std::int64_t>(width, 1)),
                 [&](std::int64_t r) {
                   for (std::int64_t i = 0; i < width; ++i) y[r * width + i] = f(a[r * width + i], b[i]);
                 });
  });
}

template <class T, Isa isa>
void binary_backward(Cpu<isa>&, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b,
                     const T* dy, T* da, T* db) {
  with_binary<T>(op, [&](auto, auto slope_a, auto slope_b) {
    parallel_for(rows, std::max<std::int64_t>(1, block / std::max<std::int64_t>(width, 1)),
                 [&](std::int64_t r) {
                   const T *ar = a + r * width, *dyr = dy + r * width;
                   if (da != nullptr)
                     for (std::int64_t i = 0; i < width; ++i) da[r * width + i] = dyr[i] * slope_a(ar[i], b[i]);
                   if (db != nullptr)
                     for (std::int64_t i = 0; i < width; ++i) db[r * width + i] = dyr[i] * slope_b(ar[i], b[i]);
                 });
  });
}

#define INSTANTIATE(T)                                                                                         \
  template void unary_forward<T>(Cpu<TERN_ISA>&, Unary, std::int64_t, const T*, T*);                           \
  template void unary_backward<T>(Cpu<TERN_ISA>&, Unary, std::int64_t, const T*, const T*, T*);                \
  template void affine<T>(Cpu<TERN_ISA>&, std::int64_t, T, T, const T*, T*);                                   \
  template void binary_forward<T>(Cpu<TERN_ISA>&, Binary, std::int64_t, std::int64_t, const T*, const T*, T*); \
  template void binary_backward<T>(Cpu<TERN_ISA>&, Binary, std::int64_t, std::int64_t, const T*, const T*,     \
                                   const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
