// Attention of each query to the segments of keys that it has selected (SEA, Lee et al. 2024, arXiv 2310.01777,
// section 3.2). Segments are those of kernels/landmarks.h: a sequence of n tokens has min(segments, n). Heads
// select together: a query may see many segments in one head and none in another. Deterministic.
#pragma once

#include "kernels/attention.h"
#include "kernels/landmarks.h"

namespace tern::kernels {

/// Bit i % 32 of word i / 32 tells whether a query sees segment i.
constexpr int segments_per_word = 32;
constexpr int selection_words(int segments) { return (segments + segments_per_word - 1) / segments_per_word; }

/// How much a query sees: `keys` in each head, on average over the heads.
struct SelectionSize {
  int segments, keys;
};
/// Pairs of head and segment that a query of a sequence of `length` selects: those that hold about heads * keys
/// keys, at least one.
constexpr std::int64_t selected_pairs(const SelectionSize& size, int heads, int length) {
  const std::int64_t used = landmarks_of(length, size.segments), all = heads * used;
  const std::int64_t nearest = (2 * all * size.keys + length) / (2 * std::int64_t{length});
  return nearest < 1 ? 1 : nearest > all ? all : nearest;
}
/// Keys of one segment that a query sees at most, so that the cost stays linear where a segment alone exceeds
/// the keys of all heads.
constexpr int most_segment_keys(const SelectionSize& size, int heads) {
  const std::int64_t most = std::int64_t{heads} * size.keys;
  return most < 0x40000000 ? static_cast<int>(most) : 0x40000000;
}

/// The keys of one segment that are seen: `taken` of them, evenly spread.
struct SegmentKeys {
  int first, count, taken;
  constexpr int key(int index) const {
    return first + (taken == count ? index : static_cast<int>(std::int64_t{index} * count / taken));
  }
};
/// `used` = landmarks_of(length, segments); keys are counted from the sequence's first token.
constexpr SegmentKeys segment_keys(int segment, int length, int used, int most) {
  const int first = segment_begin(segment, length, used),
            count = segment_begin(segment + 1, length, used) - first;
  return {first, count, count < most ? count : most};
}

/// masks[h, word, t]: the selected_pairs() pairs with the largest weights [tokens, heads, segments] of each
/// token t, compared as float32; of equal ones the first by head and segment. Weights must not be negative. 0
/// outside all sequences.
template <class T, Isa isa>
void select_segments(Cpu<isa>&, const Sequences& sequences, Heads<const T> weights, int keys,
                     std::int32_t* masks);
template <class T>
void select_segments(Cuda&, const Sequences& sequences, Heads<const T> weights, int keys, std::int32_t* masks);

struct SelectedOptions {
  SelectionSize size;
  const std::int32_t* masks;  ///< [heads, selection_words(segments), tokens]
  double scale = 1;
};

/// out = softmax(scale q k^T) v over the keys seen; lse [heads, tokens] = ln sum_j exp(scale q k_j). A row that
/// sees none gets zeros and -infinity, rows outside all sequences get zeros. Cost for each key seen: 2
/// (forward)
/// + 7 (backward) * width multiply-adds; the backward pass reads each query's mask for each segment.
template <class T, Isa isa>
void selected_attention_forward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SelectedOptions&,
                                Heads<T> out, T* lse);
template <class T>
void selected_attention_forward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SelectedOptions&,
                                Heads<T> out, Accumulate<T>* lse);
template <class T, Isa isa>
void selected_attention_backward(Cpu<isa>&, const Sequences&, const AttentionInputs<T>&, const SelectedOptions&,
                                 const SoftmaxResult<T>&, Heads<const T> dout, const AttentionGradients<T>&);
template <class T>
void selected_attention_backward(Cuda&, const Sequences&, const AttentionInputs<T>&, const SelectedOptions&,
                                 const SoftmaxResult<T>&, Heads<const T> dout, const AttentionGradients<T>&);

/// y[t, h, c] = max(0, 1 - |x - c|) with x = place (width - 1) / (length - 1) of the token in its sequence: the
/// rows of a unit matrix stretched linearly over the sequence. y is packed; zeros outside all sequences.
template <class T, Isa isa>
void stretched_unit_rows(Cpu<isa>&, const Sequences& sequences, Heads<T> y);
template <class T>
void stretched_unit_rows(Cuda&, const Sequences& sequences, Heads<T> y);

}  // namespace tern::kernels
