// Rotary positions (Su et al. 2021, "RoFormer", equation 34): the column pair (2 i, 2 i + 1) of a row at
// position p is turned by the angle p / 10000^(2 i / width). Every entry has one writer.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Sines in the even columns and cosines in the odd ones, a row for each position: [positions, width].
template <class A>
struct Rotation {
  const A* sinusoids;
  const std::int32_t* position;  ///< [tokens] row of each token
  bool is_inverse;               ///< turn backwards: the transpose, which gradients need
};

/// y [tokens, heads, width], contiguous, is x turned; the width is even.
template <class T, Isa isa>
void rotate_rows(Cpu<isa>&, Heads<const T> x, const Rotation<T>& rotation, T* y);
template <class T>
void rotate_rows(Cuda&, Heads<const T> x, const Rotation<Accumulate<T>>& rotation, T* y);

}  // namespace tern::kernels
