// Ragged batches: padding never enters the model. Real tokens of all sequences stand one after another; a
// position that the task masks is simply not there.
#pragma once

#include <vector>

#include "tern/tensor.h"

namespace tern {

/// Coordinates of rows for random streams: data set index and place, so that packing cannot change a mask.
struct RowCoordinates {
  Tensor sample;    ///< [rows] int64
  Tensor position;  ///< [rows] int32
};

/// Where sequences lie in a ragged batch.
struct SequenceLayout {
  Tensor offsets;                  ///< [sequences + 1] int32, first token of each sequence
  Tensor position;                 ///< [tokens] int32, place in the original sequence, rising in each
  Tensor sample;                   ///< [sequences] int64, index in the data set
  Tensor order;                    ///< [sequences] int32, sequences by falling length
  Tensor token_sample;             ///< [tokens] int64, sample of each token
  std::int64_t longest = 0;        ///< no sequence has more tokens: sizes launches
  std::int64_t shortest = 0;       ///< no sequence has fewer
  std::int64_t padded_length = 0;  ///< length that the task pads to: the published mean divides by it

  std::int64_t sequences() const { return sample.size(0); }
  /// Rows of the batch. Those from offsets[sequences] on belong to no sequence: the unused capacity of a
  /// captured graph. Attention, pooling and convolution give them zeros, and zero gradients.
  std::int64_t tokens() const { return position.size(0); }
  RowCoordinates token_rows() const { return {token_sample, position}; }
};

/// The arrays of a layout in host memory.
struct LayoutArrays {
  std::vector<std::int32_t> offsets, position, order;
  std::vector<std::int64_t> sample, token_sample;
  std::int64_t longest = 0, shortest = 0, padded_length = 0;
};
/// Completes the arrays that describe a batch, and fills [tokens] arrays up to `capacity` rows (0: no more than
/// there are). Throws Error(failed) unless offsets rise from 0 to the number of tokens (equal ones bound an
/// empty sequence) and positions rise strictly inside each sequence and lie in [0, padded_length).
LayoutArrays arrange_sequences(const std::vector<std::int32_t>& offsets,
                               const std::vector<std::int32_t>& position,
                               const std::vector<std::int64_t>& sample, std::int64_t padded_length,
                               std::int64_t capacity = 0);
/// Copies the arrays to `device`.
SequenceLayout make_layout(const LayoutArrays& arrays, Device device = {});
inline SequenceLayout make_layout(const std::vector<std::int32_t>& offsets,
                                  const std::vector<std::int32_t>& position,
                                  const std::vector<std::int64_t>& sample, std::int64_t padded_length,
                                  Device device = {}) {
  return make_layout(arrange_sequences(offsets, position, sample, padded_length), device);
}

}  // namespace tern
