// Convolution over tokens and columns in bfloat16 on tensor cores, for rows in packs of 16 bytes; contracts as
// in kernels/grid_conv.h.
#pragma once

#include "kernels/cuda/heads.cuh"
#include "kernels/grid_conv.h"

namespace tern::kernels {

/// Whether the kernels below take pictures like x; packed ones of its width must be aligned like it.
inline bool fits_conv_tiles(const Heads<const bfloat16>& x) { return rows_are_packed(x); }

void filter_tiled(Cuda&, const Sequences& sequences, const Heads<const bfloat16>& x,
                  const GridFilters<float>& filters, const float* bias, bfloat16* y);
void filter_back_tiled(Cuda&, const Sequences& sequences, const Heads<const bfloat16>& x,
                       const GridFilters<float>& filters, const Heads<const bfloat16>& dy, bfloat16* dx);
/// Adds to dweight and dbias.
void sum_filters_tiled(Cuda&, const Sequences& sequences, const Heads<const bfloat16>& x, bool of_relu,
                       const Heads<const bfloat16>& dy, float* dweight, float* dbias);

}  // namespace tern::kernels
