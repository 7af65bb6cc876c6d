// Row lookup, its transpose, and sums over sequences; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// y[r, :] = table[id[r], :]. Returns the first r whose id is outside the table, or -1.
template <class T, Isa isa>
std::int64_t gather_rows(Cpu<isa>&, Rows<const T> table, const std::int32_t* id, std::int64_t count, T* y);
/// table[id[r], :] += dy[r, :], in order of r for each row of the table.
template <class T, Isa isa>
void scatter_add_rows(Cpu<isa>&, Rows<const T> dy, const std::int32_t* id, T* table);

/// y[s, :] = sum of x over the tokens of sequence s, divided by `divisor` or, where that is 0, by its token
/// count (an empty sequence gives zeros).
template <class T, Isa isa>
void sequence_mean_forward(Cpu<isa>&, const Sequences& sequences, Rows<const T> x, std::int64_t divisor, T* y);
template <class T, Isa isa>
void sequence_mean_backward(Cpu<isa>&, const Sequences& sequences, std::int64_t width, const T* dy,
                            std::int64_t divisor, T* dx);

}  // namespace tern::kernels
