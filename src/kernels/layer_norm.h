// Normalization of contiguous rows: layer norm (Ba et al. 2016) and unit length; deterministic.
#pragma once

#include "kernels/dropout.h"
#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Statistics of the forward pass that the backward pass needs, both [rows].
template <class T>
struct NormStatistics {
  T* mean;
  T* inverse_deviation;
};

/// y = (x - mean) / sqrt(variance + epsilon) * weight + bias by row. Where `branch` is not null, x first
/// becomes x + dropout(branch), which is written to `total`.
template <class T, Isa isa>
void layer_norm_forward(Cpu<isa>&, Rows<const T> x, const T* branch, const DropoutMask& mask, T* total,
                        const T* weight, const T* bias, T epsilon, T* y, NormStatistics<T> statistics);
/// dx = the gradient of x (plus `dtotal` where it is not null); dweight and dbias are added to.
template <class T, Isa isa>
void layer_norm_backward(Cpu<isa>&, Rows<const T> x, const T* weight, NormStatistics<const T> statistics,
                         const T* dy, const T* dtotal, T* dx, T* dweight, T* dbias);

/// y = x / max(|x|, 1e-12) for each head row, packed [tokens, heads, width]; norm [tokens, heads] = |x|.
template <class T, Isa isa>
void unit_rows_forward(Cpu<isa>&, Heads<const T> x, T* y, T* norm);
/// dx = (dy - y (y . dy)) / |x|, packed; zero where |x| < 1e-12 (an empty row carries no direction).
template <class T, Isa isa>
void unit_rows_backward(Cpu<isa>&, std::int64_t rows, std::int64_t width, const T* y, const T* norm,
                        const T* dy, T* dx);

}  // namespace tern::kernels
