// Exact attention of bfloat16 on the warpgroup tensor cores of compute capability 9.0 (sm_90a). The same
// contracts as kernels/attention.h and bernoulli_expectation.h; each function returns false, having enqueued
// nothing, where it does not serve: another capability, code not built for sm_90a, head widths other than 32,
// 64 and 128, pointers or strides that are no multiple of 16 bytes, a scale that is not positive.
// Deterministic, except that the backward pass of widths 32 and 64 adds dq in any order unless
// cuda.options.deterministic.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/bernoulli_expectation.h"

namespace tern::kernels {

bool softmax_attention_forward_hopper(Cuda&, const Sequences&, const AttentionInputs<bfloat16>&,
                                      const SoftmaxOptions&, Heads<bfloat16> out, float* lse);
bool softmax_attention_backward_hopper(Cuda&, const Sequences&, const AttentionInputs<bfloat16>&,
                                       const SoftmaxOptions&, const SoftmaxResult<bfloat16>&,
                                       Heads<const bfloat16> dout, const AttentionGradients<bfloat16>&);
bool expect_values_hopper(Cuda&, const Sequences&, const AttentionInputs<bfloat16>&, const BernoulliOptions&,
                          Heads<bfloat16> y, Heads<float> norm);
bool differentiate_expectation_hopper(Cuda&, const Sequences&, const AttentionInputs<bfloat16>&,
                                      const BernoulliOptions&, const InputLengths<bfloat16>&,
                                      Heads<const bfloat16> dy, const AttentionGradients<bfloat16>&);

}  // namespace tern::kernels
