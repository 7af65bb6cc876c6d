// Selection of segments: a warp takes a token and finds the smallest selected weight bit by bit, as floats that
// are not negative are ordered like their bits. Deterministic. Cost: one read of the weights, and 15 (bfloat16)
// or 31 passes over them, in registers up to 64 times 32 segments of all heads.
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/selected_segments.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// The weights of one token as ordered bits, a segment of each 32 in each lane: held in registers where `most`
/// words of them are enough, read anew each time where it is 0.
template <class T, int most>
class TokenWeights {
 public:
  __device__ TokenWeights(const Heads<const T>& weights, std::int64_t token, int used)
      : weights_(weights), token_(token), used_(used), words_(selection_words(weights.width)) {
    if constexpr (most > 0) {
#pragma unroll
      for (int i = 0; i < most; ++i) held_[i] = -1;
      for_each([&](int head, int word, int& bits) { bits = load(head, word); });
    }
  }

  /// Calls body(head, word, bits) in all lanes; bits are -1 where there is no segment.
  template <class Body>
  __device__ void for_each(const Body& body) {
    if constexpr (most > 0) {
      int head = 0, word = 0;
#pragma unroll
      for (int i = 0; i < most; ++i) {
        if (head == weights_.heads) continue;
        body(head, word, held_[i]);
        if (++word == words_) word = 0, ++head;
      }
    } else {
      for (int head = 0; head < weights_.heads; ++head)
        for (int word = 0; word < words_; ++word) {
          int bits = load(head, word);
          body(head, word, bits);
        }
    }
  }

  /// Pairs of head and segment whose bits are at least `least`, in every lane.
  __device__ int count_from(int least) {
    int found = 0;
    if constexpr (most > 0) {
#pragma unroll
      for (int i = 0; i < most; ++i) found += held_[i] >= least;
    } else {
      for_each([&](int, int, int bits) { found += bits >= least; });
    }
    return warp_sum(found);
  }

  /// The largest number that at least `wanted` pairs reach: it is one of them.
  __device__ int selected_least(std::int64_t wanted) {
    constexpr int lowest = std::is_same_v<T, bfloat16> ? 16 : 0;  // no weight has bits below it
    int least = 0;
    for (int bit = 30; bit >= lowest; --bit) {
      const int raised = least | 1 << bit;
      if (count_from(raised) >= wanted) least = raised;
    }
    return least;
  }

 private:
  __device__ int load(int head, int word) const {
    const int segment = word * segments_per_word + static_cast<int>(threadIdx.x) % warp_lanes;
    if (segment >= used_) return -1;
    return __float_as_int(static_cast<float>(to_accumulate(row_of(weights_, token_, head)[segment])));
  }

  const Heads<const T>& weights_;
  std::int64_t token_;
  int used_, words_;  ///< segments that the sequence has, words of all
  int held_[most > 0 ? most : 1];
};

template <class T, int most>
__global__ void __launch_bounds__(threads_per_block)
    select_for_tokens(Sequences sequences, Heads<const T> weights, SelectionSize size, std::int32_t* masks) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, words = selection_words(size.segments);
  for (std::int64_t token = thread_index() / warp_lanes; token < weights.tokens;
       token += grid_threads() / warp_lanes) {
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    const bool is_used = range.index < sequences.count;
    TokenWeights<T, most> of_token(weights, token, is_used ? landmarks_of(range.length, size.segments) : 0);
    const std::int64_t wanted = is_used ? selected_pairs(size, weights.heads, range.length) : 0;
    const int least = is_used ? of_token.selected_least(wanted) : 0;
    std::int64_t ties = is_used ? wanted - of_token.count_from(least + 1) : 0;
    of_token.for_each([&](int head, int word, int bits) {
      const unsigned tied = __ballot_sync(0xFFFFFFFFu, bits == least);
      const int before = __popc(tied & ((1u << lane) - 1));
      const unsigned mask = __ballot_sync(0xFFFFFFFFu, bits > least || (bits == least && before < ties));
      ties -= __popc(tied);
      if (lane == 0)
        masks[(std::int64_t{head} * words + word) * weights.tokens + token] = static_cast<int>(mask);
    });
  }
}

/// All heads of a token have the same row; y is packed.
template <class T>
__global__ void __launch_bounds__(threads_per_block) stretch_rows(Sequences sequences, Heads<T> y) {
  using A = Accumulate<T>;
  const std::int64_t count = y.tokens * y.width;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t token = i / y.width;
    const int column = static_cast<int>(i - token * y.width);
    const SequenceRange range = find_sequence(sequences, static_cast<int>(token));
    const A step = static_cast<A>(y.width - 1) / static_cast<A>(range.length > 1 ? range.length - 1 : 1);
    const A distance = static_cast<A>(token - range.begin) * step - static_cast<A>(column);
    const A value = A(1) - (distance < 0 ? -distance : distance);
    const T entry = from_accumulate<T>(range.index < sequences.count && value > A(0) ? value : A(0));
    for (int head = 0; head < y.heads; ++head) row_of(y, token, head)[column] = entry;
  }
}

}  // namespace

static_assert(segments_per_word == warp_lanes);

template <class T>
void select_segments(Cuda& cuda, const Sequences& sequences, Heads<const T> weights, int keys,
                     std::int32_t* masks) {
  if (weights.tokens * weights.heads == 0) return;
  const std::int64_t words = std::int64_t{weights.heads} * selection_words(weights.width);
  const auto kernel = words <= 8    ? select_for_tokens<T, 8>
                      : words <= 32 ? select_for_tokens<T, 32>
                      : words <= 64 ? select_for_tokens<T, 64>
                                    : select_for_tokens<T, 0>;
  kernel<<<grid_for(cuda, weights.tokens * warp_lanes, threads_per_block, 16), threads_per_block, 0,
           cuda.stream>>>(sequences, weights, {weights.width, keys}, masks);
  check_launch("select_segments");
}

template <class T>
void stretched_unit_rows(Cuda& cuda, const Sequences& sequences, Heads<T> y) {
  const std::int64_t count = y.tokens * y.width;
  if (count * y.heads == 0) return;
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
