// Attention whose weights are products of the features phi = elu + 1 (Katharopoulos et al. 2020, equations 5
// and 7), which never exist in memory.
#pragma once

#include "kernels/attention.h"

namespace tern::kernels {

/// y_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon) over the tokens j of i's
/// sequence; rows outside all sequences get zeros. False: this device has no kernel for such rows, and nothing
/// was written. y is packed and serves as work area before it is written. Memory beyond it, for the time of a
/// call: a matrix of width x width for each sequence and head.
template <class Device, class T>
bool linear_attention_forward(Device&, const Sequences&, const AttentionInputs<T>&, double, Heads<T>) {
  return false;
}
bool linear_attention_forward(Cuda&, const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                              double epsilon, Heads<bfloat16> y);

/// Gradients where the forward pass returned true; dq, dk and dv are packed, the latter two serve as work area.
template <class Device, class T>
void linear_attention_backward(Device&, const Sequences&, const AttentionInputs<T>&, double, Heads<const T>,
                               Heads<const T>, const AttentionGradients<T>&) {}
void linear_attention_backward(Cuda&, const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                               double epsilon, Heads<const bfloat16> y, Heads<const bfloat16> dy,
                               const AttentionGradients<bfloat16>& out);

}  // namespace tern::kernels
