// Convolution along each sequence, one filter for each head shared by its columns (the skip path of YOSO-C and
// Nystromformer): y_i = sum over u of weight[head, u] x_{i + u - window / 2}, by original position, zero
// outside.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// y is packed [tokens, heads, width]; `window` is odd. A masked position contributes zero. Rows outside all
/// sequences become zero, in y and in dx.
template <class T, Isa isa>
void depthwise_conv_forward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const T* weight,
                            int window, T* y);
template <class T>
void depthwise_conv_forward(Cuda&, const Sequences& sequences, Heads<const T> x, const Accumulate<T>* weight,
                            int window, T* y);
/// dx, packed, is overwritten; dweight [heads, window] is added to. Null targets are skipped.
template <class T, Isa isa>
void depthwise_conv_backward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const T* weight,
                             int window, const T* dy, T* dx, T* dweight);
template <class T>
void depthwise_conv_backward(Cuda&, const Sequences& sequences, Heads<const T> x, const Accumulate<T>* weight,
                             int window, const T* dy, T* dx, Accumulate<T>* dweight);

}  // namespace tern::kernels
