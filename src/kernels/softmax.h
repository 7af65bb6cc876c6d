// Softmax over contiguous rows; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// y[r, :] = softmax(x[r, :]). In place is allowed.
template <class T, Isa isa>
void softmax_forward(Cpu<isa>&, Rows<const T> x, Rows<T> y);
/// dx = y * (dy - sum(y * dy)) by row.
template <class T, Isa isa>
void softmax_backward(Cpu<isa>&, Rows<const T> y, Rows<const T> dy, Rows<T> dx);

/// loss[r] = log sum exp(x[r, :]) - x[r, label[r]] (cross-entropy of a softmax).
template <class T, Isa isa>
void cross_entropy_forward(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, T* loss);
/// dx[r, :] = dloss[r] * (softmax(x[r, :]) - one_hot(label[r])).
template <class T, Isa isa>
void cross_entropy_backward(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, const T* dloss, Rows<T> dx);

}  // namespace tern::kernels
