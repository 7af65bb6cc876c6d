// A loader's batch as tensors.
#pragma once

#include "data/loader.h"
#include "tern/sequence_layout.h"

namespace tern {

struct DeviceBatch {
  Tensor tokens;  ///< [tokens] int32
  SequenceLayout layout;
  Tensor labels;  ///< [records] int32
};
DeviceBatch to_device(const data::Batch& batch);

/// Rows of logits whose largest entry stands at the label.
std::int64_t count_correct(const Tensor& logits, const Tensor& labels);

}  // namespace tern
