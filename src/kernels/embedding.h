// Row lookup, its transpose, and sums over sequences; deterministic. What the transposes add to a row is added
// in order of r on the CPU, in another fixed order on CUDA.
#pragma once

#include "kernels/dropout.h"
#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Rows of two tables by token: y[r, :] = dropout(table[id[r], :] + place_table[position[r], :]). Without a
/// place_table (null data) only the first term. Positions lie inside place_table.
template <class T>
struct EmbeddingTables {
  Rows<const T> table;
  const std::int32_t* id;
  Rows<const T> place_table;
  const std::int32_t* position;
};
/// Returns the first r whose id is outside the table, or -1; CUDA returns -1 and leaves a fault that
/// synchronize() throws, and takes row 0 instead.
template <class T, Isa isa>
std::int64_t embedding_forward(Cpu<isa>&, const EmbeddingTables<T>& tables, std::int64_t count,
                               const DropoutMask& mask, T* y);
template <class T>
std::int64_t embedding_forward(Cuda&, const EmbeddingTables<Accumulate<T>>& tables, std::int64_t count,
                               const DropoutMask& mask, T* y);
/// table[id[r], :] += dropout(dy[r, :]); the table has `rows` rows.
template <class T, Isa isa>
void scatter_add_rows(Cpu<isa>&, Rows<const T> dy, const DropoutMask& mask, const std::int32_t* id,
                      std::int64_t rows, T* table);
template <class T>
void scatter_add_rows(Cuda&, Rows<const T> dy, const DropoutMask& mask, const std::int32_t* id,
                      std::int64_t rows, Accumulate<T>* table);
/// The same for ids that rise strictly inside each sequence (positions): no row meets a sequence twice.
template <class T, Isa isa>
void scatter_add_places(Cpu<isa>&, const Sequences& sequences, Rows<const T> dy, const DropoutMask& mask,
                        std::int64_t rows, T* table);
template <class T>
void scatter_add_places(Cuda&, const Sequences& sequences, Rows<const T> dy, const DropoutMask& mask,
                        std::int64_t rows, Accumulate<T>* table);

/// y[s, :] = sum of x over the tokens of sequence s, divided by `divisor` or, where that is 0, by its token
/// count (an empty sequence gives zeros).
template <class T, Isa isa>
void sequence_mean_forward(Cpu<isa>&, const Sequences& sequences, Rows<const T> x, std::int64_t divisor, T* y);
template <class T>
void sequence_mean_forward(Cuda&, const Sequences& sequences, Rows<const T> x, std::int64_t divisor, T* y);
/// dx of rows outside all sequences is zero.
template <class T, Isa isa>
void sequence_mean_backward(Cpu<isa>&, const Sequences& sequences, std::int64_t width, const T* dy,
                            std::int64_t divisor, T* dx);
template <class T>
void sequence_mean_backward(Cuda&, const Sequences& sequences, std::int64_t width, const T* dy,
                            std::int64_t divisor, T* dx);

/// y[s, :] = x[offsets[s], :]; no sequence is empty. Backward writes all of dx.
template <class T, Isa isa>
void sequence_first_forward(Cpu<isa>&, const Sequences& sequences, Rows<const T> x, T* y);
template <class T>
void sequence_first_forward(Cuda&, const Sequences& sequences, Rows<const T> x, T* y);
template <class T, Isa isa>
void sequence_first_backward(Cpu<isa>&, const Sequences& sequences, std::int64_t width, const T* dy, T* dx);
template <class T>
void sequence_first_backward(Cuda&, const Sequences& sequences, std::int64_t width, const T* dy, T* dx);

}  // namespace tern::kernels
