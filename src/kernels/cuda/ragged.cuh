// Rows of ragged batches in device code.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace tern::kernels {

template <class T>
__device__ __forceinline__ T* row_of(const Heads<T>& x, std::int64_t token, int head) {
  return x.data + token * x.token_stride + head * x.head_stride;
}

/// A sequence's place in the batch; index == sequences.count stands for the rows that belong to none.
struct SequenceRange {
  int index, begin, length;
};

__device__ __forceinline__ SequenceRange sequence_range(const Sequences& sequences, int index) {
  const int begin = sequences.offsets[index];
  const int end = index < sequences.count ? sequences.offsets[index + 1] : static_cast<int>(sequences.tokens);
  return {index, begin, end - begin};
}

/// The sequence that holds `token`.
__device__ __forceinline__ SequenceRange find_sequence(const Sequences& sequences, int token) {
  int low = 0, high = static_cast<int>(sequences.count);  // the answer lies in [low, high]
  while (low < high) {
    const int middle = (low + high) / 2;
    if (sequences.offsets[middle + 1] <= token)
      low = middle + 1;
    else
      high = middle;
  }
  return sequence_range(sequences, low);
}

}  // namespace tern::kernels
