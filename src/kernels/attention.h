// Exact attention over ragged batches, in tiles: no matrix of size length x length exists at any time.
//
// Inputs and gradients are head views [tokens, heads, width] with any strides between tokens and heads and unit
// stride along the width (1 .. 256); q, k and v may be slices of one product. Outputs are overwritten, also for
// sequences of one token; a sequence without tokens writes nothing, rows outside all sequences become zero.
// Work is the sum of heads x length^2 x width over the sequences, memory is linear in the tokens. Results do
// not depend on the number of threads.
#pragma once

#include "kernels/dropout.h"
#include "kernels/layer_norm.h"
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

/// Dropout of attention weights. Query i and key j are counted from the first token of their sequence. One
/// stream block of the sequence's sample serves the 16 weights of queries {a, a + 1, a + 8, a + 9} and keys {b,
/// b + 1, b + 8, b + 9}: a shape that tensor-core fragments hold without exchange, forward and transposed. Each
/// weight draws one byte of the block and is kept if the byte reaches `weight_dropout_threshold(rate)`; kept
/// weights are multiplied by 256 / (256 - threshold).
struct AttentionDropout {
  float rate = 0;
  RandomStream stream{};
};
/// The rate is rounded to a multiple of 2^-8.
constexpr std::uint32_t weight_dropout_threshold(float rate) {
  const auto nearest = static_cast<std::uint32_t>(rate * 256.0f + 0.5f);
  return nearest < 255u ? nearest : 255u;
}
/// Queries and keys lie below 2^26, heads below 2^16.
TERN_HOST_DEVICE constexpr std::uint64_t weight_dropout_block(int head, std::int64_t query, std::int64_t key) {
  const auto query_patch = static_cast<std::uint64_t>((query >> 4 << 2) | (query & 7) >> 1);
  const auto key_patch = static_cast<std::uint64_t>((key >> 4 << 2) | (key & 7) >> 1);
  return static_cast<std::uint64_t>(head) << 48 | query_patch << 24 | key_patch;
}
/// Which byte of the block: byte % 4, lowest first, of word byte / 4.
TERN_HOST_DEVICE constexpr int weight_dropout_byte(std::int64_t query, std::int64_t key) {
  return static_cast<int>((query & 1) << 3 | (key & 1) << 2 | (query >> 3 & 1) << 1 | (key >> 3 & 1));
}

struct SoftmaxOptions {
  double scale = 1;
  AttentionDropout dropout{};
};
/// What the forward pass of softmax attention leaves for the backward pass.
template <class T>
struct SoftmaxResult {
  Heads<const T> out;
  const Accumulate<T>* lse;  ///< [heads, tokens]
};

/// out = dropout(softmax(scale q k^T)) v inside each sequence and head; lse [heads, tokens] = ln sum_j
/// exp(scale q k_j).
template <class T, Isa isa>
void softmax_attention_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SoftmaxOptions&,
                               Heads<T> out, T* lse);
template <class T>
void softmax_attention_forward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SoftmaxOptions&,
                               Heads<T> out, Accumulate<T>* lse);

/// Gradients of the above at `dout`, with the same options and the dropout drawn again.
template <class T, Isa isa>
void softmax_attention_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SoftmaxOptions&,
                                const SoftmaxResult<T>&, Heads<const T> dout, const AttentionGradients<T>&);
template <class T>
void softmax_attention_backward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SoftmaxOptions&,
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
template <class T>
void bernoulli_expectation_forward(Cuda&, const Sequences&, const AttentionInputs<T>&, const BernoulliOptions&,
                                   Heads<T> y);

/// Gradients of the above at `dy` with respect to the unit rows q, k and to v. The exact derivative
/// bits (1 - arccos(s) / pi)^(bits - 1) / (pi sqrt(1 - s^2)) is taken at the clamped cosine.
template <class T, Isa isa>
void bernoulli_expectation_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&,
                                    const BernoulliOptions&, Heads<const T> dy, const AttentionGradients<T>&);
template <class T>
void bernoulli_expectation_backward(Cuda&, const Sequences&, const AttentionInputs<T>&, const BernoulliOptions&,
                                    Heads<const T> dy, const AttentionGradients<T>&);

/// bernoulli_expectation_forward for rows q and k of any length, which are scaled to length one first, with the
/// rows of y scaled to length one at last; norm, of width 1, is what they had before. On CUDA scaled queries
/// and keys exist for a few heads at a time, here and in the backward pass.
template <class T, Isa isa>
void unit_bernoulli_expectation_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&,
                                        const BernoulliOptions&, Heads<T> y, Heads<T> norm);
template <class T>
void unit_bernoulli_expectation_forward(Cuda&, const Sequences&, const AttentionInputs<T>&,
                                        const BernoulliOptions&, Heads<T> y, Heads<Accumulate<T>> norm);

/// Gradients of the above at `dy` with respect to q, k and v as they were given; `y` as above.
template <class T, Isa isa>
void unit_bernoulli_expectation_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&,
                                         const BernoulliOptions&, const UnitRows<T>& y, Heads<const T> dy,
                                         const AttentionGradients<T>&);
template <class T>
void unit_bernoulli_expectation_backward(Cuda&, const Sequences&, const AttentionInputs<T>&,
                                         const BernoulliOptions&, const UnitRows<T>& y, Heads<const T> dy,
                                         const AttentionGradients<T>&);

}  // namespace tern::kernels
