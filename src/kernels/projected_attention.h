// Softmax attention of the tokens of a sequence to a few rows of its own, without their weights in memory.
#pragma once

#include "kernels/attention.h"

namespace tern::kernels {

template <class T>
struct ProjectedInputs {
  Heads<const T> q;
  const Accumulate<T>*keys, *values;  ///< [count, heads, rows, q.width]
  int rows;
  bool limited;  ///< a sequence of fewer tokens than rows sees as many rows as it has tokens
};
template <class T>
struct ProjectedGradients {
  Heads<T> dq;
  Accumulate<T>*dkeys, *dvalues;
};

/// y_t = softmax(keys q_t)^T values, lse [heads, tokens] as in kernels/attention.h; rows outside all sequences
/// get zeros. Keys and values are rounded to bfloat16 where they meet the queries. False: this device has no
/// kernel for such rows, and nothing was written.
template <class Device, class T>
bool projected_attention_forward(Device&, const Sequences&, const ProjectedInputs<T>&, Heads<T>,
                                 Accumulate<T>*) {
  return false;
}
bool projected_attention_forward(Cuda&, const Sequences& sequences, const ProjectedInputs<bfloat16>& in,
                                 Heads<bfloat16> y, float* lse);

/// Gradients where the forward pass returned true.
template <class Device, class T>
void projected_attention_backward(Device&, const Sequences&, const ProjectedInputs<T>&, const SoftmaxResult<T>&,
                                  Heads<const T>, const ProjectedGradients<T>&) {}
void projected_attention_backward(Cuda&, const Sequences& sequences, const ProjectedInputs<bfloat16>& in,
                                  const SoftmaxResult<bfloat16>& result, Heads<const bfloat16> dy,
                                  const ProjectedGradients<bfloat16>& out);

}  // namespace tern::kernels
