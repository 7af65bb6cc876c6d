// Second stage of sums over rows: adds what blocks have left, always in the same order; deterministic.
#pragma once

#include <cstdint>

#include "tern/device.h"

namespace tern::kernels {

/// first[i] += sum over p of partial[p, i] for i < first_count, second[i - first_count] likewise for the rest;
/// partial is [parts, first_count + second_count] and A float or double. One pass over partial.
template <class A>
void add_partial_sums(Cuda&, const A* partial, std::int64_t parts, A* first, std::int64_t first_count,
                      A* second = nullptr, std::int64_t second_count = 0);

}  // namespace tern::kernels
