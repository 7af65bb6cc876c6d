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
/// becomes x + dropout(branch), which is written to `total` (rounded to T before it is normalized).
template <class T, Isa isa>
void layer_norm_forward(Cpu<isa>&, Rows<const T> x, const T* branch, const DropoutMask& mask, T* total,
                        const T* weight, const T* bias, T epsilon, T* y, NormStatistics<T> statistics);
template <class T>
void layer_norm_forward(Cuda&, Rows<const T> x, const T* branch, const DropoutMask& mask, T* total,
                        const Accumulate<T>* weight, const Accumulate<T>* bias, Accumulate<T> epsilon, T* y,
                        NormStatistics<Accumulate<T>> statistics);
/// dx = the gradient of x (plus `dtotal` where it is not null); where `dbranch` is not null it becomes
/// dropout(dx); dweight and dbias are added to.
template <class T, Isa isa>
void layer_norm_backward(Cpu<isa>&, Rows<const T> x, const T* weight, NormStatistics<const T> statistics,
                         const T* dy, const T* dtotal, T* dx, const DropoutMask& mask, T* dbranch, T* dweight,
                         T* dbias);
template <class T>
void layer_norm_backward(Cuda&, Rows<const T> x, const Accumulate<T>* weight,
                         NormStatistics<const Accumulate<T>> statistics, const T* dy, const T* dtotal, T* dx,
                         const DropoutMask& mask, T* dbranch, Accumulate<T>* dweight, Accumulate<T>* dbias);

/// Rows shorter than this have no direction: they are not scaled to length one and get no gradient.
constexpr double smallest_norm = 1e-12;

/// y = x / max(|x|, 1e-12) for each head row; norm, of width 1, = |x|. y may be x.
template <class T, Isa isa>
void unit_rows_forward(Cpu<isa>&, Heads<const T> x, Heads<T> y, Heads<T> norm);
template <class T>
void unit_rows_forward(Cuda&, Heads<const T> x, Heads<T> y, Heads<Accumulate<T>> norm);

/// Rows of length one, and the lengths that they had before, of width 1. Without data: rows that nobody scaled.
template <class T>
struct UnitRows {
  Heads<const T> rows;
  Heads<const Accumulate<T>> norm;
};
/// dx = (dy - y (y . dy)) / |x| for y = x / |x|; zero where |x| < 1e-12. dx may be dy.
template <class T, Isa isa>
void unit_rows_backward(Cpu<isa>&, const UnitRows<T>& y, Heads<const T> dy, Heads<T> dx);
template <class T>
void unit_rows_backward(Cuda&, const UnitRows<T>& y, Heads<const T> dy, Heads<T> dx);

}  // namespace tern::kernels
