// Pairs of crowded buckets on tensor cores.
#pragma once

#include "kernels/cuda/collision_crowded.h"

namespace tern::kernels {

constexpr int widest_products = 128;

/// add_crowded_pairs for rows of at most widest_products columns that may be read 16 bytes at a time. Gains
/// (y_i . y_j) w and moments are rounded to bfloat16 on their way into the second product.
template <class Id>
void add_crowded_products(Cuda& cuda, const CrowdedPairs<bfloat16, Id>& work);

}  // namespace tern::kernels
