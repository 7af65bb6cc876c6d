// What a kernel sees of a tensor: a pointer and extents. Kernels know no Tensor, no tape and no configuration.
#pragma once

#include <cstdint>

#include "tern/random.h"

namespace tern::kernels {

/// A matrix with unit stride along its rows.
template <class T>
struct Rows {
  T* data;
  std::int64_t rows, width, stride;
  T* row(std::int64_t r) const { return data + r * stride; }
};

/// Head view of token rows: element (token, head, c) lies at data[token * token_stride + head * head_stride +
/// c].
template <class T>
struct Heads {
  T* data;
  std::int64_t tokens;
  int heads, width;
  std::int64_t token_stride, head_stride;
  T* row(std::int64_t token, int head) const { return data + token * token_stride + head * head_stride; }
};

template <class T>
Heads<const T> read_only(const Heads<T>& x) {
  return {x.data, x.tokens, x.heads, x.width, x.token_stride, x.head_stride};
}

/// Where the sequences of a ragged batch lie. Tokens offsets[s] .. offsets[s + 1] - 1 belong to sequence s.
struct Sequences {
  std::int64_t count;
  const std::int32_t* offsets;   ///< [count + 1]
  const std::int32_t* position;  ///< [tokens] place of each token in its original sequence
  const std::int64_t* sample;    ///< [count] index in the data set: the random streams' coordinate
  const std::int32_t* order;     ///< [count] sequences by falling length: balances parallel work
  std::int64_t tokens;           ///< rows of the batch; those from offsets[count] on belong to no sequence
  std::int64_t longest;          ///< no sequence has more tokens
};

}  // namespace tern::kernels
