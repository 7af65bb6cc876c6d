// y[i] = f(x[i]) and y[r, i] = f(a[r, i], b[i]) on contiguous memory; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

enum class Unary { relu, gelu, exp, log, sqrt, square, reciprocal, tanh, sigmoid };
enum class Binary { add, subtract, multiply, divide };

/// gelu is x Phi(x) with the error function (Hendrycks and Gimpel 2016); float error below 2e-7
/// (Abramowitz-Stegun 7.1.26).
template <class T, Isa isa>
void unary_forward(Cpu<isa>&, Unary op, std::int64_t count, const T* x, T* y);
template <class T>
void unary_forward(Cuda&, Unary op, std::int64_t count, const T* x, T* y);
/// dx = f'(x) dy; in place (dx == dy) is allowed.
template <class T, Isa isa>
void unary_backward(Cpu<isa>&, Unary op, std::int64_t count, const T* x, const T* dy, T* dx);
template <class T>
void unary_backward(Cuda&, Unary op, std::int64_t count, const T* x, const T* dy, T* dx);

/// y = alpha x + beta.
template <class T, Isa isa>
void affine(Cpu<isa>&, std::int64_t count, Accumulate<T> alpha, Accumulate<T> beta, const T* x, T* y);
template <class T>
void affine(Cuda&, std::int64_t count, Accumulate<T> alpha, Accumulate<T> beta, const T* x, T* y);

/// y[r, i] = a[r, i] op b[i] for `rows` rows of b's width; rows == 1 is the plain case.
template <class T, Isa isa>
void binary_forward(Cpu<isa>&, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b, T* y);
template <class T>
void binary_forward(Cuda&, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b, T* y);
/// Gradients of both operands at every [r, i]; null pointers are skipped. db still has to be summed over rows.
template <class T, Isa isa>
void binary_backward(Cpu<isa>&, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b,
                     const T* dy, T* da, T* db);
template <class T>
void binary_backward(Cuda&, Binary op, std::int64_t rows, std::int64_t width, const T* a, const T* b,
                     const T* dy, T* da, T* db);

}  // namespace tern::kernels
