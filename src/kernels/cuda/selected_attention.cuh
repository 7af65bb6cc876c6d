// What the kernels of attention to selected segments share: which query a warp has and which keys it sees.
#pragma once

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/selected_segments.h"

namespace tern::kernels {
namespace {

constexpr int query_warps = 4, query_threads = query_warps * warp_lanes;
constexpr int key_warps = 8, key_threads = key_warps * warp_lanes;
constexpr unsigned all_lanes = 0xFFFFFFFFu;

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % warp_lanes; }
__device__ __forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x) / warp_lanes; }

/// A query in one head.
struct QueryRow {
  std::int64_t query;
  int head;
  SequenceRange range;
};
/// Calls body(row) for the rows of this warp; neighbouring warps have neighbouring queries of one head.
template <class T, class Body>
__device__ __forceinline__ void for_each_query(const Sequences& sequences, const Heads<T>& q,
                                               const Body& body) {
  for (std::int64_t r = thread_index() / warp_lanes; r < q.tokens * q.heads; r += grid_threads() / warp_lanes)
    body(QueryRow{r % q.tokens, static_cast<int>(r / q.tokens),
                  find_sequence(sequences, static_cast<int>(r % q.tokens))});
}

/// Calls body(key) in all lanes for the keys that a query sees, up to 32 at a time: the first lanes have a key
/// each, counted in the batch, the others -1. A row outside all sequences, whose masks are 0, sees none.
template <class Body>
__device__ void for_seen_keys(const SelectedOptions& options, std::int64_t tokens, int heads,
                              const QueryRow& row, const Body& body) {
  const auto& [query, head, range] = row;
  const int used = landmarks_of(range.length, options.size.segments),
            words = selection_words(options.size.segments), most = most_segment_keys(options.size, heads),
            lane = lane_of_thread();
  for (int word = 0; word * segments_per_word < used; ++word) {
    const auto mask =
        static_cast<unsigned>(options.masks[(std::int64_t{head} * words + word) * tokens + query]);
    if (mask == 0) continue;
    const int segment = word * segments_per_word + lane;
    SegmentKeys keys{0, 0, 0};
    if ((mask >> lane & 1) != 0) keys = segment_keys(segment, range.length, used, most);
    int end = keys.taken;  // keys of the lanes up to this one
    for (int step = 1; step < warp_lanes; step *= 2) {
      const int below = __shfl_up_sync(all_lanes, end, step);
      if (lane >= step) end += below;
    }
    const int total = __shfl_sync(all_lanes, end, warp_lanes - 1);
    for (int first = 0; first < total; first += warp_lanes) {
      const int index = first + lane;
      int owner = 0;  // the first lane whose keys end behind the index
      for (int step = warp_lanes / 2; step > 0; step /= 2)
        if (__shfl_sync(all_lanes, end, owner + step - 1) <= index) owner += step;
      const SegmentKeys found{__shfl_sync(all_lanes, keys.first, owner),
                              __shfl_sync(all_lanes, keys.count, owner),
                              __shfl_sync(all_lanes, keys.taken, owner)};
      const int start = __shfl_sync(all_lanes, end, owner) - found.taken;
      body(index < total ? range.begin + found.key(index - start) : -1);
    }
  }
}

/// What both backward kernels read.
template <class T>
struct BackwardInputs {
  AttentionInputs<T> in;
  SelectedOptions options;
  SoftmaxResult<T> result;
  Heads<const T> dout;
  Accumulate<T>* products;  ///< dout . out, [heads, tokens]
};

/// A part of the keys of one segment in one head.
struct KeyTask {
  SequenceRange range;
  SegmentKeys keys;
  int head, part;
  const std::int32_t* masks;  ///< of the batch's tokens
  int bit;                    ///< of a mask
};
/// Task `index` of sequences x heads x segments x parts; no keys where the sequence has no such segment.
__device__ __forceinline__ KeyTask key_task(const Sequences& sequences, const SelectedOptions& options,
                                            std::int64_t tokens, int heads, int parts, std::int64_t index) {
  const int segments = options.size.segments;
  const int part = static_cast<int>(index % parts), segment = static_cast<int>(index / parts % segments),
            head = static_cast<int>(index / parts / segments % heads);
  const SequenceRange range = sequence_range(sequences, static_cast<int>(index / parts / segments / heads));
  const int used = landmarks_of(range.length, segments);
  const SegmentKeys keys =
      segment < used ? segment_keys(segment, range.length, used, most_segment_keys(options.size, heads))
                     : SegmentKeys{0, 0, 0};
  const std::int64_t word = std::int64_t{head} * selection_words(segments) + segment / segments_per_word;
  return {range, keys, head, part, options.masks + word * tokens, segment % segments_per_word};
}

/// Parts of `rows` keys of the largest segment of all.
inline int key_parts(const Sequences& sequences, const SelectionSize& size, int heads, int rows) {
  // no segment has more keys than the longest sequence's largest
  const std::int64_t largest = sequences.longest / size.segments + 1,
                     taken = std::min<std::int64_t>(largest, most_segment_keys(size, heads));
  return static_cast<int>((taken + rows - 1) / rows);
}

}  // namespace
}  // namespace tern::kernels
