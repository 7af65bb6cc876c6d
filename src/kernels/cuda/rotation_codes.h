// Codes of bfloat16 rows by random rotations, from products on tensor cores.
#pragma once

#include "base/cuda.h"
#include "kernels/sorted_attention.h"

namespace tern::kernels {

/// Columns of the widest rows that products take.
constexpr int most_product_columns = 256;

/// As rotation_codes, for x.width <= most_product_columns.
void rotation_codes_by_products(Cuda& cuda, const Sequences& sequences, Heads<const bfloat16> x,
                                RotationShape shape, const RandomStream& stream, std::int32_t* codes);

}  // namespace tern::kernels
