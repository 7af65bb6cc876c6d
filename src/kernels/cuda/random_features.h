// Positive random features in bfloat16 on tensor cores, and the shifts of keys in the form that atomic maxima
// need.
#pragma once

#include "kernels/random_features.h"

namespace tern::kernels {

/// Whether the tiled kernels can take these rows: packs of 16 bytes.
bool fits_feature_tiles(const PositiveFeatures<bfloat16>& in, const void* y);

/// tops[s, h] = the largest exponent of a key of sequence s and head h, as ordered_bits; to be 0 before.
void raise_tops_tiled(Cuda&, const Sequences& sequences, const PositiveFeatures<bfloat16>& in,
                      std::uint32_t* tops);
/// y; `tops` of keys, unused for queries.
void write_features_tiled(Cuda&, const Sequences& sequences, const PositiveFeatures<bfloat16>& in,
                          const std::uint32_t* tops, bfloat16* y);
void positive_features_backward_tiled(Cuda&, const PositiveFeatures<bfloat16>& in, const bfloat16* y,
                                      const bfloat16* dy, bfloat16* dx);

}  // namespace tern::kernels
