// What stands between two products: bias, activation and dropout of rows, and the gradients with the sums over
// rows that a bias needs. Deterministic.
#pragma once

#include "kernels/dropout.h"
#include "kernels/matmul.h"

namespace tern::kernels {

/// y = dropout(activation(x + bias)), x contiguous; null `bias` and `mask` are left out. x + bias is kept in
/// `before` unless null. x may be y or before.
template <class T>
struct ActivationForward {
  std::int64_t rows, width;
  Activation activation;
  const T* x;
  const Accumulate<T>* bias;
  const DropoutMask* mask;
  T *before, *y;
};
template <class T>
void activate(Cuda&, const ActivationForward<T>& work);

/// dx = slope * dropout(dy), where `saved` is x + bias for gelu and y for relu; dbias += the sums of dx over
/// rows. Null dx and dbias are skipped; dx may be dy. For gelu `activated`, unless null, receives
/// dropout(activation(saved)).
template <class T>
struct ActivationBackward {
  std::int64_t rows, width;
  Activation activation;
  const T* saved;
  const DropoutMask* mask;
  const T* dy;
  T *dx, *activated;
  Accumulate<T>* dbias;
};
template <class T>
void activation_backward(Cuda&, const ActivationBackward<T>& work);

}  // namespace tern::kernels
