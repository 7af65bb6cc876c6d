// Exact softmax attention over the pairs of an AttentionPattern, in tiles: the pattern is evaluated in the
// kernels, no list of pairs and no band exists. Views as in kernels/attention.h.
//
// Cost heads x width x pairs of tokens in visible tiles: 2 (forward) + 7 (backward) multiply-adds for each;
// memory linear in the tokens. Results do not depend on the number of threads.
#pragma once

#include "kernels/attention.h"
#include "tern/attention_pattern.h"

namespace tern::kernels {

struct SparseOptions {
  AttentionPattern pattern{};
  double scale = 1;
};
/// What the forward pass leaves for the backward pass.
template <class T>
struct SparseResult {
  Heads<const T> y;
  const Accumulate<T>* log_sums;  ///< [tokens, heads]
};
template <class T>
struct SparseSlopes {
  Heads<const T> dy;
  const Accumulate<T>* dlog_sums;  ///< [tokens, heads]; null stands for zeros
};

/// y = softmax(scale q k^T) v over the pairs; log_sums [tokens, heads] = ln sum_j exp(scale q k_j). A row that
/// sees no key gets zeros and -infinity, rows outside all sequences get zeros.
template <class T, Isa isa>
void sparse_attention_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SparseOptions&,
                              Heads<T> y, T* log_sums);
template <class T>
void sparse_attention_forward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SparseOptions&,
                              Heads<T> y, Accumulate<T>* log_sums);

/// Gradients of the above: with weights p_ij, the gradient of a score is p_ij (dy_i v_j - dy_i y_i + dlog_i).
template <class T, Isa isa>
void sparse_attention_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SparseOptions&,
                               const SparseResult<T>&, const SparseSlopes<T>&, const AttentionGradients<T>&);
template <class T>
void sparse_attention_backward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SparseOptions&,
                               const SparseResult<T>&, const SparseSlopes<T>&, const AttentionGradients<T>&);

}  // namespace tern::kernels
