// Rows of a batch that belong to no sequence: only batches with unused capacity have any.
#pragma once

#include <algorithm>

#include "kernels/view.h"

namespace tern::kernels {
namespace {

/// Writes zeros there.
template <class T>
void clear_unused(const Sequences& sequences, const Heads<T>& out) {
  for (std::int64_t token = sequences.offsets[sequences.count]; token < out.tokens; ++token)
    for (int head = 0; head < out.heads; ++head)
      std::fill(out.row(token, head), out.row(token, head) + out.width, T{0});
}

}  // namespace
}  // namespace tern::kernels
