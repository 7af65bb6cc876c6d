// A loader's batch as tensors, and its packed form: all arrays in one block, so that one copy moves it to a
// GPU.
#pragma once

#include <compare>

#include "core/allocator.h"
#include "data/loader.h"
#include "tern/sequence_layout.h"

namespace tern {

struct DeviceBatch {
  Tensor tokens;  ///< [tokens] int32
  SequenceLayout layout;
  Tensor labels;   ///< [records] int32, or empty
  Tensor targets;  ///< [records] float32, or empty
};

/// Rows that a GPU computes for `tokens` tokens, the last ones unused: the next multiple of a sixteenth of the
/// largest power of two below, but of no less than 1,024. So ragged batches have few sizes, each with its own
/// graph, and on average 3 % of the rows are unused.
std::int64_t token_capacity(std::int64_t tokens);

/// All that the work on a batch depends on besides the block's contents: batches of one shape can share a
/// graph.
struct BatchShape {
  std::int64_t capacity = 0, sequences = 0, labels = 0, targets = 0, padded_length = 0;
  bool has_empty_sequence = false;
  auto operator<=>(const BatchShape&) const = default;
};
BatchShape shape_of(const data::Batch& batch);

/// Bytes of the block for one shape.
std::size_t packed_bytes(const BatchShape& shape);
/// Writes the block. Throws what arrange_sequences() throws for a batch that makes no sense.
void pack(const data::Batch& batch, const BatchShape& shape, std::byte* target);
/// The tensors inside `block`. `layout.longest` and `shortest` are bounds that hold for every
/// batch of the shape.
DeviceBatch unpacked(const BatchShape& shape, const std::shared_ptr<Storage>& block);

/// The batch at its exact size.
DeviceBatch host_batch(const data::Batch& batch);

}  // namespace tern
