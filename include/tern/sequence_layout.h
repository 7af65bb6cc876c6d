// Ragged batches: padding never enters the model. Real tokens of all sequences stand one after another; a
// position that the task masks is simply not there.
#pragma once

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
  Tensor token_sample;             ///< [tokens] int64, sample of each token
  std::int64_t longest = 0;        ///< most tokens in one sequence: sizes launches
  std::int64_t padded_length = 0;  ///< length that the task pads to: the published mean divides by it

  std::int64_t sequences() const { return sample.size(0); }
  std::int64_t tokens() const { return position.size(0); }
  RowCoordinates token_rows() const { return {token_sample, position}; }
  /// One row for each sequence.
  RowCoordinates sequence_rows() const {
    return {sample, zeros(sample.shape(), DType::int32, sample.device())};
  }
};

/// Copies host arrays to `device`. Throws Error(failed) unless offsets rise from 0 to the number of tokens
/// (equal ones bound an empty sequence) and positions rise strictly inside each sequence and lie in [0,
/// padded_length).
SequenceLayout make_layout(const std::vector<std::int32_t>& offsets, const std::vector<std::int32_t>& position,
                           const std::vector<std::int64_t>& sample, std::int64_t padded_length,
                           Device device = {});

}  // namespace tern
