// Softmax over contiguous rows, and its cross-entropy; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"
#include "tern/step_state.h"

namespace tern::kernels {

/// y[r, :] = softmax(x[r, :]). In place is allowed.
template <class T, Isa isa>
void softmax_forward(Cpu<isa>&, Rows<const T> x, Rows<T> y);
template <class T>
void softmax_forward(Cuda&, Rows<const T> x, Rows<T> y);
/// dx = y * (dy - sum(y * dy)) by row. dx may be dy.
template <class T, Isa isa>
void softmax_backward(Cpu<isa>&, Rows<const T> y, Rows<const T> dy, Rows<T> dx);
template <class T>
void softmax_backward(Cuda&, Rows<const T> y, Rows<const T> dy, Rows<T> dx);

/// loss[r] = log sum exp(x[r, :]) - x[r, label[r]] (cross-entropy of a softmax). Returns the first r whose
/// label is no column, or -1; CUDA returns -1 and leaves a fault that synchronize() throws, and takes class 0
/// instead.
template <class T, Isa isa>
std::int64_t cross_entropy_forward(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, T* loss);
template <class T>
std::int64_t cross_entropy_forward(Cuda&, Rows<const T> x, const std::int32_t* label, Accumulate<T>* loss);
/// dx[r, :] = dloss[r] * (softmax(x[r, :]) - one_hot(label[r])).
template <class T, Isa isa>
void cross_entropy_backward(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, const T* dloss, Rows<T> dx);
template <class T>
void cross_entropy_backward(Cuda&, Rows<const T> x, const std::int32_t* label, const Accumulate<T>* dloss,
                            Rows<T> dx);

/// Adds to `score` the sum of `loss` [rows], the rows whose largest entry of x (the first of equal ones) stands
/// at the label, and the rows; only those whose `weight` is 1 where it is not null (it holds 0 and 1). In
/// double, in order.
template <class T, Isa isa>
void add_score(Cpu<isa>&, Rows<const T> x, const std::int32_t* label, const T* loss, const T* weight,
               ScoreTotals* score);
template <class T>
void add_score(Cuda&, Rows<const T> x, const std::int32_t* label, const Accumulate<T>* loss,
               const Accumulate<T>* weight, ScoreTotals* score);
/// Adds the sum of `loss` [rows] and the rows. In double, in order.
template <class A, Isa isa>
void add_losses(Cpu<isa>&, const A* loss, std::int64_t rows, ScoreTotals* score);
template <class A>
void add_losses(Cuda&, const A* loss, std::int64_t rows, ScoreTotals* score);

}  // namespace tern::kernels
