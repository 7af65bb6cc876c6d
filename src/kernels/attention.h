// Exact attention over ragged batches, in tiles: no matrix of size length x length exists at any time.
//
// Inputs and gradients are head views [tokens, heads, width] with any strides between tokens and heads and unit
// stride along the width (1 .. 256); q, k and v may be slices of one product. Outputs are overwritten, also for
// sequences of one token; a sequence without tokens writes nothing. Work is the sum of heads x length^2 x width
// over the sequences, memory is linear in the tokens. Results do not depend on the number of threads.
#pragma once

#include "kernels/dropout.h"
#include "kernels/view.h"
#include "tern/bernoulli.h"
#include "tern/device.h"
#include "tern/random.h"

namespace tern::kernels {

template <class T>
struct AttentionInputs {
  Heads<const T> q, k, v;
};
template <class T>
struct AttentionGradients {
  Heads<T> dq, dk, dv;
};

/// Dropout of attention weights. The weight of query i and key j (places in their original sequence, below
/// 2^24) in head h (below 2^16) is kept if slice j % 8 of stream block `weight_dropout_block(h, i, j)` of the
/// sequence's sample reaches `dropout_threshold(rate)`; slices are the block's four words in order, low half
/// first. Kept weights are multiplied by 65536 / (65536 - threshold).
struct AttentionDropout {
  float rate = 0;
  RandomStream stream{};
};
constexpr std::uint64_t weight_dropout_block(int head, std::int64_t query, std::int64_t key) {
  return static_cast<std::uint64_t>(head) << 48 | static_cast<std::uint64_t>(query) << 24 |
         static_cast<std::uint64_t>(key) >> 3;
}

struct SoftmaxOptions {
  double scale = 1;
  AttentionDropout dropout{};
};
/// What the forward pass of softmax attention leaves for the backward pass.
template <class T>
struct SoftmaxResult {
  Heads<const T> out;
  const T* lse;  ///< [heads, tokens]
};

/// out = dropout(softmax(scale q k^T)) v inside each sequence and head; lse [heads, tokens] = ln sum_j
/// exp(scale q k_j).
template <class T, Isa isa>
void softmax_attention_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SoftmaxOptions&,
                               Heads<T> out, T* lse);

/// Gradients of the above at `dout`, with the same options and the dropout drawn again.
template <class T, Isa isa>
void softmax_attention_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SoftmaxOptions&,
                                const SoftmaxResult<T>&, Heads<const T> dout, const AttentionGradients<T>&);

struct BernoulliOptions {
  int bits = 1;  ///< at least 1
  BernoulliGradient gradient = BernoulliGradient::surrogate;
};

/// y_i = sum_j (1 - arccos(q_i . k_j) / pi)^bits v_j inside each sequence and head: the expected form of YOSO.
/// q and k have unit rows; the cosine is clamped to +-(1 - 1e-6).
template <class T, Isa isa>
void bernoulli_expectation_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&,
                                   const BernoulliOptions&, Heads<T> y);

/// Gradients of the above at `dy` with respect to the unit rows q, k and to v. The exact derivative
/// bits (1 - arccos(s) / pi)^(bits - 1) / (pi sqrt(1 - s^2)) is taken at the clamped cosine.
template <class T, Isa isa>
void bernoulli_expectation_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&,
                                    const BernoulliOptions&, Heads<const T> dy, const AttentionGradients<T>&);

}  // namespace tern::kernels
