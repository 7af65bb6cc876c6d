// The two products that attention linear in its features is made of, each the adjoint of the other: sums of
// outer products over the tokens of a sequence, and products of its rows with the sequence's matrix. Rows
// outside all sequences take no part; they become zero. Deterministic: sums are cut by size and added in order.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// matrices[s, h] = sum over the tokens t of sequence s of a_t b_t^T, [a.width, b.width]; totals[s, h] = sum of
/// weights_t a_t. An empty sequence gives zeros.
template <class T>
struct OuterSums {
  Heads<const T> a, b;
  Accumulate<T>* matrices;                 ///< [count, heads, a.width, b.width]
  Accumulate<T>* totals = nullptr;         ///< [count, heads, a.width]; null is skipped
  const Accumulate<T>* weights = nullptr;  ///< [tokens, heads]; null stands for ones
};

enum class MatrixOrder { plain, transposed };

/// What row_products does with a vector for each sequence and head.
template <class T>
struct RowTotals {
  enum class Use {
    none,
    divide,  ///< y_t = y_t / divisor_t with divisor_t = x_t . vector + epsilon; vector is of x.width
    add      ///< y_t = y_t + weights_t vector; vector is of y.width
  } use = Use::none;
  const Accumulate<T>* vectors = nullptr;  ///< [count, heads, width]
  double epsilon = 0;
  Accumulate<T>* divisors = nullptr;       ///< [tokens, heads], written; 1 outside all sequences
  const Accumulate<T>* weights = nullptr;  ///< [tokens, heads]; null stands for ones
};

/// y_t = M^T x_t with M = matrices[s, h] of [x.width, y.width]; where `order` is transposed y_t = M x_t with M
/// of [y.width, x.width].
template <class T>
struct RowProducts {
  Heads<const T> x;
  const Accumulate<T>* matrices;
  MatrixOrder order;
  Heads<T> y;
  RowTotals<T> totals{};
};

/// Cost tokens * heads * a.width * b.width.
template <class T, Isa isa>
void outer_sums(Cpu<isa>&, const Sequences& sequences, const OuterSums<T>& operands);
template <class T>
void outer_sums(Cuda&, const Sequences& sequences, const OuterSums<T>& operands);

/// Cost tokens * heads * x.width * y.width.
template <class T, Isa isa>
void row_products(Cpu<isa>&, const Sequences& sequences, const RowProducts<T>& operands);
template <class T>
void row_products(Cuda&, const Sequences& sequences, const RowProducts<T>& operands);

/// Gradients of a division of rows, y_t = n_t / divisor_t: dn_t = dy_t / divisor_t, packed, and
/// ddivisors[t, h] = -(dy_t . y_t) / divisor_t.
template <class T, Isa isa>
void divided_rows_backward(Cpu<isa>&, Heads<const T> y, Heads<const T> dy, const T* divisors, T* dn,
                           T* ddivisors);
template <class T>
void divided_rows_backward(Cuda&, Heads<const T> y, Heads<const T> dy, const Accumulate<T>* divisors, T* dn,
                           Accumulate<T>* ddivisors);

}  // namespace tern::kernels
