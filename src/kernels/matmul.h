// Matrix products on BLAS, cut into fixed blocks so that any number of threads gives the same bits.
#pragma once

#include "base/blas.h"
#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

using blas::Transpose;
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

/// y = activation(x weight^T + bias) for weight [outputs, inputs]; x, y contiguous. `bias` may be null. Where
/// the activation is gelu and `before` is not null, the sums before it are kept there for the backward pass.
template <class T, Isa isa>
void linear_forward(Cpu<isa>&, Rows<const T> x, const T* weight, const T* bias, std::int64_t outputs,
                    Activation activation, T* before, T* y);
/// Gradients of linear_forward; `saved` is `before` for gelu, y for relu, unused for none. Null targets are
/// skipped; dweight and dbias are added to, dx is overwritten (added to where `accumulate_dx`).
template <class T, Isa isa>
void linear_backward(Cpu<isa>&, Rows<const T> x, const T* weight, std::int64_t outputs, Activation activation,
                     const T* saved, const T* dy, T* dx, bool accumulate_dx, T* dweight, T* dbias);

}  // namespace tern::kernels
