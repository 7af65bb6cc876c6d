// Feature maps of attention that is linear in features. Deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// y = elu(x) + 1 = x + 1 above 0, e^x elsewhere (Katharopoulos et al. 2020, equation 7); y is packed.
template <class T, Isa isa>
void elu_plus_one_forward(Cpu<isa>&, Heads<const T> x, T* y);
template <class T>
void elu_plus_one_forward(Cuda&, Heads<const T> x, T* y);
/// dx = min(y, 1) dy, both packed: the slope is 1 above 0 and e^x = y elsewhere.
template <class T, Isa isa>
void elu_plus_one_backward(Cpu<isa>&, std::int64_t count, const T* y, const T* dy, T* dx);
template <class T>
void elu_plus_one_backward(Cuda&, std::int64_t count, const T* y, const T* dy, T* dx);

/// Entries of the features of the exponential's second-order series for rows of `width`, rounded up to a
/// multiple of 8.
constexpr int taylor_feature_count(int width) { return (1 + width + width * (width + 1) / 2 + 7) / 8 * 8; }

/// phi(x) = (1, x_i / w^(1/4), x_i x_j / w^(1/2) for i <= j, zeros) with w = x.width, the squares over sqrt(2)
/// more, so that phi(q) . phi(k) = 1 + s + s^2 / 2 for s = q . k / sqrt(w). y is packed [tokens, heads,
/// taylor_feature_count(w)].
template <class T, Isa isa>
void taylor_features_forward(Cpu<isa>&, Heads<const T> x, T* y);
template <class T>
void taylor_features_forward(Cuda&, Heads<const T> x, T* y);
/// dx, packed.
template <class T, Isa isa>
void taylor_features_backward(Cpu<isa>&, Heads<const T> x, const T* dy, T* dx);
template <class T>
void taylor_features_backward(Cuda&, Heads<const T> x, const T* dy, T* dx);

}  // namespace tern::kernels
