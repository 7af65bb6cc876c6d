// Reductions of the middle axis of a contiguous [outer, length, inner] array; each output is summed in index
// order.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

struct ReduceShape {
  std::int64_t outer, length, inner;
};

/// y[o, i] = sum over l of x[o, l, i].
template <class T, Isa isa>
void sum(Cpu<isa>&, ReduceShape shape, const T* x, T* y);
template <class T>
void sum(Cuda&, ReduceShape shape, const T* x, T* y);

/// y[o, i] = max over l of x[o, l, i], where[o, i] = the first l that has it; length must not be 0.
template <class T, Isa isa>
void max(Cpu<isa>&, ReduceShape shape, const T* x, T* y, std::int64_t* where);
template <class T>
void max(Cuda&, ReduceShape shape, const T* x, T* y, std::int64_t* where);
/// dx = dy at `where`, 0 elsewhere.
template <class T, Isa isa>
void max_backward(Cpu<isa>&, ReduceShape shape, const std::int64_t* where, const T* dy, T* dx);
template <class T>
void max_backward(Cuda&, ReduceShape shape, const std::int64_t* where, const T* dy, T* dx);

}  // namespace tern::kernels
