// Random features of the exponential kernel (Performer; Choromanski et al. 2021, arXiv 2009.14794): orthogonal
// random directions and the positive features of rows. Deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// How often directions change: every `interval` steps of the stream; 0 means never.
struct RedrawSchedule {
  RandomStream stream;
  std::uint32_t interval;
  TERN_HOST_DEVICE std::uint32_t epoch() const { return interval == 0 ? 0 : *stream.step / interval; }
};

/// Rows of `out` [directions, width] in groups of `width`: the rows of a group are orthogonal with the
/// direction of a uniformly drawn rotation (Gram-Schmidt on normals, in double) and lengths of independent
/// normal vectors. Rounded to bfloat16 by definition, so that devices agree. Draws: element i * width + c of
/// sample 0 of the stream at step epoch(), of sample 1 for the lengths. Cost directions * width^2.
template <class T, Isa isa>
void draw_orthogonal(Cpu<isa>&, const RedrawSchedule& schedule, Rows<T> out);
template <class T>
void draw_orthogonal(Cuda&, const RedrawSchedule& schedule, Rows<T> out);

/// phi_f(x) = exp(e_f - shift) + stabilizer with e_f = scale w_f . x - scale^2 |x|^2 / 2; the shift is the
/// largest e_f of the row for queries, of the sequence and head for keys, in float32. A common factor of a
/// query's or of all keys' features cancels in attention.
template <class T>
struct PositiveFeatures {
  Heads<const T> x;
  const T* directions;  ///< [count, x.width]
  int count;
  double scale, stabilizer;
  bool is_key;
};
/// y is packed [tokens, heads, count]. Rows outside all sequences become zero. Cost tokens * heads * count *
/// width.
template <class T, Isa isa>
void positive_features_forward(Cpu<isa>&, const Sequences& sequences, const PositiveFeatures<T>& in, T* y);
template <class T>
void positive_features_forward(Cuda&, const Sequences& sequences, const PositiveFeatures<T>& in, T* y);
/// dx, packed, with the shift as a constant; y as the forward pass wrote it, dy packed and 0 outside all
/// sequences. With g_f = dy_f (y_f - stabilizer): dx = scale sum_f g_f w_f, for keys minus scale^2 x sum_f g_f
/// (for queries that term cancels against the shift's).
template <class T, Isa isa>
void positive_features_backward(Cpu<isa>&, const PositiveFeatures<T>& in, const T* y, const T* dy, T* dx);
template <class T>
void positive_features_backward(Cuda&, const PositiveFeatures<T>& in, const T* y, const T* dy, T* dx);

}  // namespace tern::kernels
