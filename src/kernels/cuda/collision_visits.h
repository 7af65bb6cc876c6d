// Each row visits the partners that its list names and keeps its gradient in registers: what the ways of doing
// so are told, and who chooses between them.
#pragma once

#include "base/cuda.h"
#include "kernels/cuda/collisions.h"
#include "kernels/layer_norm.h"
#include "kernels/view.h"

namespace tern::kernels {

/// One direction of collision_gradients. With own rows [x | y] and partner rows [x | y],
///   dx_i = scale (crowded_i + sum over partners j of (y_i . y_j) weight(x_i . x_j) x_j)
///   dy_i = value_scale (sum over partners j of y_j + sum of summed rows of i), where dy.data is not null.
/// Where norm.data is not null, x_i was z_i / |z_i| of that length, and (dx_i - x_i (x_i . dx_i)) / |z_i| is
/// written in the place of dx_i: the gradient of z_i. For dq own rows are [q | dy] and partners [k | v], for dk
/// and dv the other way round.
template <class T, class Id>
struct PartnerVisits {
  Sequences sequences;
  Collisions<Id> collisions;
  Heads<const T> own_x, own_y, partner_x, partner_y;
  Heads<T> dx, dy;
  Accumulate<T> scale, value_scale;
  bool is_exact, packed;         ///< packed: rows may be read 16 bytes at a time
  Accumulate<T>* crowded;        ///< [heads][tokens][width], taken and left as zeros
  const T* summed;               ///< [heads][summed_rows][width] sums of partner_y
  std::int64_t summed_rows;
  Heads<const Accumulate<T>> norm;  ///< of width 1
};

/// Deterministic. Cost: a head_width for each entry of the lists.
template <class T, class Id>
void visit_partners(Cuda& cuda, const PartnerVisits<T, Id>& visits);

/// The same on tensor cores.
template <class Id>
void visit_partner_tiles(Cuda& cuda, const PartnerVisits<bfloat16, Id>& visits);
/// Whether it serves this call.
template <class Id>
bool fits_partner_tiles(const PartnerVisits<bfloat16, Id>& visits);

}  // namespace tern::kernels
