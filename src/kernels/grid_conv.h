// Convolution with 3 x 3 filters over tokens and columns: x [tokens, channels, width] is a picture with a row
// for each token of a sequence. Zeros stand beyond its borders, and so between sequences. Deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

constexpr int grid_taps = 9;  ///< of a filter: 3 tokens by 3 columns

/// Of the parameters' type: weight [outputs, inputs, 3 tokens, 3 columns].
template <class A>
struct GridFilters {
  const A* weight;
  int outputs, inputs;
  bool of_relu = false;  ///< the picture is relu(x), which nobody stores
};

/// y[t, o, j] = bias[o] + sum over i, a, b of weight[o, i, a, b] x[t + a - 1, i, j + b - 1]; zeros outside all
/// sequences. A null bias stands for zeros. x has any strides, y [tokens, outputs, width] is packed. Cost
/// tokens * width * 9 * inputs * outputs.
template <class T, Isa isa>
void grid_conv_forward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const GridFilters<T>& filters,
                       const T* bias, T* y);
template <class T>
void grid_conv_forward(Cuda&, const Sequences& sequences, Heads<const T> x,
                       const GridFilters<Accumulate<T>>& filters, const Accumulate<T>* bias, T* y);

/// Where gradients go; null ones are skipped. dx, of x also with `of_relu`, is packed and overwritten; dweight
/// and dbias, null together, are added to.
template <class T, class A>
struct GridGradients {
  T* dx;
  A *dweight, *dbias;
};
/// dy [tokens, outputs, width].
template <class T, Isa isa>
void grid_conv_backward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const GridFilters<T>& filters,
                        Heads<const T> dy, const GridGradients<T, T>& gradients);
template <class T>
void grid_conv_backward(Cuda&, const Sequences& sequences, Heads<const T> x,
                        const GridFilters<Accumulate<T>>& filters, Heads<const T> dy,
                        const GridGradients<T, Accumulate<T>>& gradients);

}  // namespace tern::kernels
