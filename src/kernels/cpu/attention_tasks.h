// How attention over a ragged batch is cut into tasks: one for each head and chunk of a sequence, longest
// sequences first. Chunks depend on the sequence's length alone, so the sums do not depend on the number of
// threads.
#pragma once

#include "kernels/cpu/scratch.h"
#include "kernels/view.h"

namespace tern::kernels {
namespace {

/// Chunks are at least `shortest` tokens long (a multiple of `step`); a sequence has at most `most` of them.
struct ChunkRule {
  int shortest, step;
  std::int64_t most;
  std::int64_t length(std::int64_t tokens) const {
    const std::int64_t even = (tokens + most - 1) / most;
    return even <= shortest ? shortest : (even + step - 1) / step * step;
  }
  std::int64_t chunks(std::int64_t tokens) const { return (tokens + length(tokens) - 1) / length(tokens); }
};

struct AttentionTask {
  std::int64_t sequence, sample;
  std::int64_t begin, end;    ///< the sequence's tokens
  std::int64_t first, count;  ///< the chunk's tokens: first .. first + count - 1
  int head, chunk, chunks;
};

class AttentionTasks {
 public:
  AttentionTasks(const Sequences& sequences, int heads, const ChunkRule& rule)
      : sequences_(sequences),
        heads_(heads),
        rule_(rule),
        order_(sequences.count),
        start_(sequences.count + 1) {
    for (std::int64_t i = 0; i < sequences.count; ++i) order_[i] = i;
    sort_by_length();
    start_[0] = 0;
    for (std::int64_t i = 0; i < sequences.count; ++i) {
      start_[i + 1] = start_[i] + heads * rule.chunks(length(order_[i]));
    }
  }

  std::int64_t count() const { return start_[sequences_.count]; }

  AttentionTask operator[](std::int64_t index) const {
    std::int64_t low = 0, high = sequences_.count;  // start_[low] <= index < start_[high]
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      (start_[middle] <= index ? low : high) = middle;
    }
    const std::int64_t sequence = order_[low], tokens = length(sequence), chunks = rule_.chunks(tokens);
    const std::int64_t place = index - start_[low], chunk = place % chunks,
                       offset = chunk * rule_.length(tokens);
    const std::int64_t left = tokens - offset, begin = sequences_.offsets[sequence];
    return {.sequence = sequence,
            .sample = sequences_.sample[sequence],
            .begin = begin,
            .end = begin + tokens,
            .first = begin + offset,
            .count = left < rule_.length(tokens) ? left : rule_.length(tokens),
            .head = static_cast<int>(place / chunks),
            .chunk = static_cast<int>(chunk),
            .chunks = static_cast<int>(chunks)};
  }

 private:
  std::int64_t length(std::int64_t sequence) const {
    return sequences_.offsets[sequence + 1] - sequences_.offsets[sequence];
  }

  /// Shell sort: the standard library's would leave symbols that objects of other instruction sets share.
  void sort_by_length() {
    for (std::int64_t gap = sequences_.count / 2; gap > 0; gap /= 2) {
      for (std::int64_t i = gap; i < sequences_.count; ++i) {
        const std::int64_t moved = order_[i];
        std::int64_t place = i;
        for (; place >= gap && length(order_[place - gap]) < length(moved); place -= gap) {
          order_[place] = order_[place - gap];
        }
        order_[place] = moved;
      }
    }
  }

  const Sequences& sequences_;
  int heads_;
  ChunkRule rule_;
  Buffer<std::int64_t> order_;  ///< sequences, longest first
  Buffer<std::int64_t> start_;  ///< first task of each, in that order
};

}  // namespace
}  // namespace tern::kernels
