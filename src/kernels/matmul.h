// Matrix products on a BLAS: OpenBLAS inside our loops on the CPU, cut into fixed blocks so that any number of
// threads gives the same bits; cuBLASLt on CUDA.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

enum class Transpose { no, yes };
enum class Activation { none, relu, gelu };

/// A batch of row-major products C = op(A) op(B) + beta C. Strides count elements between matrices of the
/// batch.
struct MatmulShape {
  std::int64_t batch, m, n, k;
  Transpose transpose_a, transpose_b;
  std::int64_t stride_a, stride_b, stride_c;
};
template <class T, Isa isa>
void matmul(Cpu<isa>&, const MatmulShape& shape, const T* a, const T* b, T beta, T* c);
template <class T>
void matmul(Cuda&, const MatmulShape& shape, const T* a, const T* b, Accumulate<T> beta, T* c);

/// y = activation(x weight^T + bias) for weight [outputs, inputs]; x, y contiguous. `bias` may be null. Where
/// the activation is gelu and `before` is not null, the sums before it are kept there for the backward pass.
template <class T, Isa isa>
void linear_forward(Cpu<isa>&, Rows<const T> x, const T* weight, const T* bias, std::int64_t outputs,
                    Activation activation, T* before, T* y);
template <class T>
void linear_forward(Cuda&, Rows<const T> x, const T* weight, const Accumulate<T>* bias, std::int64_t outputs,
                    Activation activation, T* before, T* y);
/// Gradients of linear_forward; `saved` is `before` for gelu, y for relu, unused for none. Null targets are
/// skipped; dweight and dbias are added to, dx is overwritten.
template <class T, Isa isa>
void linear_backward(Cpu<isa>&, Rows<const T> x, const T* weight, std::int64_t outputs, Activation activation,
                     const T* saved, const T* dy, T* dx, T* dweight, T* dbias);
template <class T>
void linear_backward(Cuda&, Rows<const T> x, const T* weight, std::int64_t outputs, Activation activation,
                     const T* saved, const T* dy, T* dx, Accumulate<T>* dweight, Accumulate<T>* dbias);

}  // namespace tern::kernels
