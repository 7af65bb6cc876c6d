// Selection of segments: a warp takes a token and finds the smallest selected weight bit by bit, as floats that
// are not negative are ordered like their bits. Deterministic.
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/selected_segments.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// The weights of one token, and what a warp does with them.
template <class T>
struct TokenWeights {
  Heads<const T> weights;
  std::int64_t token;
  int used;  ///< segments that the sequence has

  __device__ int bits(int head, int segment) const {
    return __float_as_int(static_cast<float>(to_accumulate(row_of(weights, token, head)[segment])));
  }

  /// Pairs of head and segment whose bits are at least `least`, in every lane.
  __device__ int count_from(int least) const {
    int found = 0;
    for (int head = 0; head < weights.heads; ++head)
      for (int i = static_cast<int>(threadIdx.x) % warp_lanes; i < used; i += warp_lanes)
        found += bits(head, i) >= least;
    return warp_sum(found);
  }

  /// The largest number that at least `wanted` pairs reach.
  __device__ int selected_least(std::int64_t wanted) const {
    int least = 0;
    for (int bit = 30; bit >= 0; --bit) {
      const int raised = least | 1 << bit;
      if (count_from(raised) >= wanted) least = raised;
    }
    return least;
  }
};

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    select_for_tokens(Sequences sequences, Heads<const T> weights, SelectionSize size, std::int32_t* masks) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, words = selection_words(size.segments);
  for (std::int64_t token = thread_index() / warp_lanes; token < weights.tokens;
       token += grid_threads() / warp_lanes) {
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    const bool is_used = range.index < sequences.count;
    const TokenWeights<T> of_token{weights, token, is_used ? landmarks_of(range.length, size.segments) : 0};
    const std::int64_t wanted = is_used ? selected_pairs(size, weights.heads, range.length) : 0;
    const int least = is_used ? of_token.selected_least(wanted) : 0;
    std::int64_t ties = is_used ? wanted - of_token.count_from(least + 1) : 0;
    for (int head = 0; head < weights.heads; ++head)
      for (int word = 0; word < words; ++word) {
        const int segment = word * segments_per_word + lane;
        const int value = segment < of_token.used ? of_token.bits(head, segment) : -1;
        const unsigned tied = __ballot_sync(0xFFFFFFFFu, value == least);
        const int before = __popc(tied & ((1u << lane) - 1));
        const unsigned mask = __ballot_sync(0xFFFFFFFFu, value > least || (value == least && before < ties));
        ties -= __popc(tied);
        if (lane == 0)
          masks[(std::int64_t{head} * words + word) * weights.tokens + token] = static_cast<int>(mask);
      }
  }
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) stretch_rows(Sequences sequences, Heads<T> y) {
  using A = Accumulate<T>;
  const std::int64_t count = y.tokens * y.heads * y.width;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t token = i / y.width / y.heads;
    const int column = static_cast<int>(i % y.width);
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    const A step = static_cast<A>(y.width - 1) / static_cast<A>(range.length > 1 ? range.length - 1 : 1);
    const A distance = static_cast<A>(token - range.begin) * step - static_cast<A>(column);
    const A value = A(1) - (distance < 0 ? -distance : distance);
    y.data[i] = from_accumulate<T>(range.index < sequences.count && value > A(0) ? value : A(0));
  }
}

}  // namespace

static_assert(segments_per_word == warp_lanes);

template <class T>
void select_segments(Cuda& cuda, const Sequences& sequences, Heads<const T> weights, int keys,
                     std::int32_t* masks) {
  if (weights.tokens * weights.heads == 0) return;
  select_for_tokens<T><<<grid_for(cuda, weights.tokens * warp_lanes, threads_per_block, 16), threads_per_block,
                         0, cuda.stream>>>(sequences, weights, {weights.width, keys}, masks);
  check_launch("select_segments");
}

template <class T>
void stretched_unit_rows(Cuda& cuda, const Sequences& sequences, Heads<T> y) {
  const std::int64_t count = y.tokens * y.heads * y.width;
  if (count == 0) return;
  stretch_rows<T>
      <<<grid_for(cuda, count, threads_per_block), threads_per_block, 0, cuda.stream>>>(sequences, y);
  check_launch("stretched_unit_rows");
}

#define INSTANTIATE(T)                                                                           \
  template void select_segments<T>(Cuda&, const Sequences&, Heads<const T>, int, std::int32_t*); \
  template void stretched_unit_rows<T>(Cuda&, const Sequences&, Heads<T>);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
