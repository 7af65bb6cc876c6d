// Landmarks of ragged sequences (Nystromformer, Xiong et al. 2021, arXiv 2102.03902, section 3.2). A sequence
// of n tokens has l = min(landmarks, n) of them: landmark i is the mean of its tokens floor(i n / l) ..
// floor((i + 1) n / l) - 1, and places from l on are absent. Where n <= landmarks every token is a landmark; it
// then stands for that token alone: the weights between landmarks, and of tokens for landmarks, are those of
// the identity. Deterministic.
#pragma once

#include <cstdint>

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Landmarks of one sequence.
constexpr int landmarks_of(int length, int landmarks) { return length < landmarks ? length : landmarks; }
/// First token of landmark `index` of `count`, counted from the sequence's first; that of `count` is the
/// length.
constexpr int segment_begin(int index, int length, int count) {
  return static_cast<int>(std::int64_t{index} * length / count);
}
/// The landmark that token `place` belongs to.
constexpr int segment_of(int place, int length, int count) {
  return static_cast<int>(((std::int64_t{place} + 1) * count - 1) / length);
}

/// means[s, h, i] = the mean of segment i of sequence s, zeros where it is absent: [count, heads, landmarks,
/// x.width].
template <class T, Isa isa>
void segment_means_forward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, int landmarks, T* means);
template <class T>
void segment_means_forward(Cuda&, const Sequences& sequences, Heads<const T> x, int landmarks,
                           Accumulate<T>* means);
/// dx [tokens, heads, width], packed: each token's share of its landmark's gradient, zeros outside all
/// sequences.
template <class T, Isa isa>
void segment_means_backward(Cpu<isa>&, const Sequences& sequences, int landmarks, const T* dmeans, Heads<T> dx);
template <class T>
void segment_means_backward(Cuda&, const Sequences& sequences, int landmarks, const Accumulate<T>* dmeans,
                            Heads<T> dx);

/// y[t, h, :] = softmax of x[t, h, :] over the landmarks that t's sequence has, zeros elsewhere; x and y packed
/// with `width` landmarks. Its gradient is that of a softmax.
template <class T, Isa isa>
void softmax_over_landmarks(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, Heads<T> y);
template <class T>
void softmax_over_landmarks(Cuda&, const Sequences& sequences, Heads<const T> x, Heads<T> y);

/// y[s, h, i, :] = softmax of x[s, h, i, :], or row i of the identity where the sequence has no more tokens
/// than landmarks: [count, heads, landmarks, landmarks]. Its gradient is that of a softmax.
template <class T, Isa isa>
void softmax_between_landmarks(Cpu<isa>&, const Sequences& sequences, int heads, int landmarks, const T* x,
                               T* y);
template <class T>
void softmax_between_landmarks(Cuda&, const Sequences& sequences, int heads, int landmarks, const T* x, T* y);

/// y[:, h, i] = softmax of x[:, h, i] over the tokens of each sequence, or 1 at token i alone where it has no
/// more tokens than landmarks; x and y packed with `width` landmarks; zeros outside all sequences.
template <class T, Isa isa>
void softmax_over_tokens(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, Heads<T> y);
template <class T>
void softmax_over_tokens(Cuda&, const Sequences& sequences, Heads<const T> x, Heads<T> y);
/// dx[:, h, i] = y (dy - sum of y dy over the sequence's tokens); all packed.
template <class T, Isa isa>
void softmax_over_tokens_backward(Cpu<isa>&, const Sequences& sequences, Heads<const T> y, Heads<const T> dy,
                                  Heads<T> dx);
template <class T>
void softmax_over_tokens_backward(Cuda&, const Sequences& sequences, Heads<const T> y, Heads<const T> dy,
                                  Heads<T> dx);

}  // namespace tern::kernels
