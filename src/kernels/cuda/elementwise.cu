// Element-wise functions. Deterministic. Memory-bound: every operand is read once in 16-byte packs, or element
// by element where a pointer or a width is not aligned to them.
#include <cmath>

#include "kernels/cuda/block.cuh"
#include "kernels/elementwise.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

// value(x) and its derivative slope(x); formulas as in kernels/cpu/math.h and kernels/cpu/elementwise.cpp
struct Relu {  // a NaN must pass, or it would vanish before anybody sees it
  template <class A>
  static __device__ A value(A x) {
    return x <= 0 ? A(0) : x;
  }
  template <class A>
  static __device__ A slope(A x) {
    return x <= 0 ? A(0) : A(1);
  }
};
struct Gelu {
  template <class A>
  static __device__ A cumulative(A x) {
    return A(0.5) * (A(1) + std::erf(x * A(0.70710678118654752440)));
  }
  template <class A>
  static __device__ A value(A x) {
    return x * cumulative(x);
  }
  template <class A>
  static __device__ A slope(A x) {
    return cumulative(x) + x * A(0.39894228040143267794) * std::exp(A(-0.5) * x * x);
  }
};
struct Exp {
  template <class A>
  static __device__ A value(A x) {
    return std::exp(x);
  }
  template <class A>
  static __device__ A slope(A x) {
    return std::exp(x);
  }
};
struct Log {
  template <class A>
  static __device__ A value(A x) {
    return std::log(x);
  }
  template <class A>
  static __device__ A slope(A x) {
    return A(1) / x;
  }
};
struct Sqrt {
  template <class A>
  static __device__ A value(A x) {
    return std::sqrt(x);
  }
  template <class A>
  static __device__ A slope(A x) {
    return A(0.5) / std::sqrt(x);
  }
};
struct Square {
  template <class A>
  static __device__ A value(A x) {
    return x * x;
  }
  template <class A>
  static __device__ A slope(A x) {
    return 2 * x;
  }
};
struct Reciprocal {
  template <class A>
  static __device__ A value(A x) {
    return A(1) / x;
  }
  template <class A>
  static __device__ A slope(A x) {
    return A(-1) / (x * x);
  }
};
struct Tanh {
  template <class A>
  static __device__ A value(A x) {
    return std::tanh(x);
  }
  template <class A>
  static __device__ A slope(A x) {
    const A y = std::tanh(x);
    return A(1) - y * y;
  }
};
struct Sigmoid {
  template <class A>
  static __device__ A value(A x) {
    return A(1) / (A(1) + std::exp(-x));
  }
  template <class A>
  static __device__ A slope(A x) {
    const A y = value(x);
    return y * (A(1) - y);
  }
};

// value(a, b) and its derivatives by a and b
struct Add {
  template <class A>
  static __device__ A value(A a, A b) {
    return a + b;
  }
  template <class A>
  static __device__ A slope_a(A, A) {
    return 1;
  }
  template <class A>
  static __device__ A slope_b(A, A) {
    return 1;
  }
};
struct Subtract {
  template <class A>
  static __device__ A value(A a, A b) {
    return a - b;
  }
  template <class A>
  static __device__ A slope_a(A, A) {
    return 1;
  }
  template <class A>
  static __device__ A slope_b(A, A) {
    return -1;
  }
};
struct Multiply {
  template <class A>
  static __device__ A value(A a, A b) {
    return a * b;
  }
  template <class A>
  static __device__ A slope_a(A, A b) {
    return b;
  }
  template <class A>
  static __device__ A slope_b(A a, A) {
    return a;
  }
};
struct Divide {
  template <class A>
  static __device__ A value(A a, A b) {
    return a / b;
  }
  template <class A>
  static __device__ A slope_a(A, A b) {
    return A(1) / b;
  }
  template <class A>
  static __device__ A slope_b(A a, A b) {
    return -a / (b * b);
  }
};

// what the kernels below apply to the elements of their operands
template <class F>
struct Value {
  template <class... A>
  __device__ auto operator()(A... x) const {
    return F::value(x...);
  }
};
template <class F>
struct UnaryGradient {
  template <class A>
  __device__ A operator()(A x, A dy) const {
    return dy * F::slope(x);
  }
};
template <class A>
struct Affine {
  A alpha, beta;
  __device__ A operator()(A x) const { return alpha * x + beta; }
};
template <class F>
struct GradientOfA {
  template <class A>
  __device__ A operator()(A a, A b, A dy) const {
    return dy * F::slope_a(a, b);
  }
};
template <class F>
struct GradientOfB {
  template <class A>
  __device__ A operator()(A a, A b, A dy) const {
    return dy * F::slope_b(a, b);
  }
};

/// Element i stands at data[i % period]; a period that is no smaller than the count means data[i].
template <class T>
struct Operand {
  const T* data;
  std::int64_t period;
  __device__ std::int64_t place(std::int64_t i) const { return i < period ? i : i % period; }
};

template <int items, class T, class F, class... Operands>
__device__ __forceinline__ void map_pack(F f, std::int64_t i, T* y, Operands... x) {
  const auto apply = [&](const auto&... pack) {
    Pack<T, items> out;
#pragma unroll
    for (int e = 0; e < items; ++e) out.item[e] = from_accumulate<T>(f(to_accumulate(pack.item[e])...));
    store_pack(y + i, out);
  };
  apply(load_pack<items>(x.data + x.place(i))...);
}

/// y[i] = f(x[i]...). The first `packs` packs of 16 bytes as such, the rest one by one.
template <class T, class F, class... Operands>
__global__ void __launch_bounds__(threads_per_block)
    map_kernel(F f, std::int64_t count, std::int64_t packs, T* y, Operands... x) {
  constexpr int items = pack_items<T>;
  for (std::int64_t p = thread_index(); p < packs; p += grid_threads()) map_pack<items>(f, p * items, y, x...);
  for (std::int64_t i = packs * items + thread_index(); i < count; i += grid_threads())
    map_pack<1>(f, i, y, x...);
}

template <class T, class F, class... Operands>
void map(Cuda& cuda, const char* name, F f, std::int64_t count, T* y, Operands... x) {
  if (count == 0) return;
  constexpr int items = pack_items<T>;
  const bool is_packed = is_aligned(16, y, x.data...) && ((x.period >= count || x.period % items == 0) && ...);
  const std::int64_t packs = is_packed ? count / items : 0;
  map_kernel<<<grid_for(cuda, is_packed ? packs + items : count, threads_per_block), threads_per_block, 0,
               cuda.stream>>>(f, count, packs, y, x...);
  check_launch(name);
}

template <class Body>
void with_unary(Unary op, const Body& body) {
  switch (op) {
    case Unary::relu:
      return body(Relu{});
    case Unary::gelu:
      return body(Gelu{});
    case Unary::exp:
      return body(Exp{});
    case Unary::log:
      return body(Log{});
    case Unary::sqrt:
      return body(Sqrt{});
    case Unary::square:
      return body(Square{});
    case Unary::reciprocal:
      return body(Reciprocal{});
    case Unary::tanh:
      return body(Tanh{});
    case Unary::sigmoid:
      return body(Sigmoid{});
  }
}

template <class Body>
void with_binary(Binary op, const Body& body) {
  switch (op) {
    case Binary::add:
      return body(Add{});
    case Binary::subtract:
      return body(Subtract{});
    case Binary::multiply:
      return body(Multiply{});
    case Binary::divide:
      return body(Divide{});
  }
}

}  // namespace

template <class T>
void unary_forward(Cuda& cuda, Unary op, std::int64_t count, const T* x, T* y) {
  with_unary(op, [&]<class F>(F) { map(cuda, "unary_forward", Value<F>{}, count, y, Operand<T>{x, count}); });
}

template <class T>
void unary_backward(Cuda& cuda, Unary op, std::int64_t count, const T* x, const T* dy, T* dx) {
  with_unary(op, [&]<class F>(F) {
    map(cuda, "unary_backward", UnaryGradient<F>{}, count, dx, Operand<T>{x, count}, Operand<T>{dy, count});
  });
}

template <class T>
void affine(Cuda& cuda, std::int64_t count, Accumulate<T> alpha, Accumulate<T> beta, const T* x, T* y) {
  map(cuda, "affine", Affine<Accumulate<T>>{alpha, beta}, count, y, Operand<T>{x, count});
}

template <class T>
void binary_forward(Cuda& cuda, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b,
                    T* y) {
  const std::int64_t count = rows * width;
  with_binary(op, [&]<class F>(F) {
    map(cuda, "binary_forward", Value<F>{}, count, y, Operand<T>{a, count}, Operand<T>{b, width});
  });
}

template <class T>
void binary_backward(Cuda& cuda, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b,
                     const T* dy, T* da, T* db) {
  const std::int64_t count = rows * width;
  const Operand<T> first{a, count}, second{b, width}, gradient{dy, count};
  with_binary(op, [&]<class F>(F) {
    if (da != nullptr) map(cuda, "binary_backward", GradientOfA<F>{}, count, da, first, second, gradient);
    if (db != nullptr) map(cuda, "binary_backward", GradientOfB<F>{}, count, db, first, second, gradient);
  });
}

#define INSTANTIATE(T)                                                                                      \
  template void unary_forward<T>(Cuda&, Unary, std::int64_t, const T*, T*);                                 \
  template void unary_backward<T>(Cuda&, Unary, std::int64_t, const T*, const T*, T*);                      \
  template void affine<T>(Cuda&, std::int64_t, Accumulate<T>, Accumulate<T>, const T*, T*);                 \
  template void binary_forward<T>(Cuda&, Binary, std::int64_t, std::int64_t, const T*, const T*, T*);       \
  template void binary_backward<T>(Cuda&, Binary, std::int64_t, std::int64_t, const T*, const T*, const T*, \
                                   T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
