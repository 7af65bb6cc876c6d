// Selection: the smallest selected weight is found bit by bit, as floats that are not negative are ordered like
// their bits. Attention: a task owns the queries of a chunk (forward, dq) or the keys of 32 segments (dk, dv),
// so that nothing is written by two.
#include "kernels/selected_segments.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/parallel.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

constexpr ChunkRule query_rule{.shortest = 256, .step = 1, .most = 1 << 30};

/// Calls body(task) for chunks of tokens of each head, in parallel.
template <class Body>
void for_each_chunk(const Sequences& sequences, int heads, const Body& body) {
  const AttentionTasks tasks(sequences, heads, query_rule);
  parallel_for(tasks.count(), 1, [&](std::int64_t index) { body(tasks[index]); });
}

int length_of(const AttentionTask& task) { return static_cast<int>(task.end - task.begin); }

/// Zeros in the words of rows outside all sequences.
void clear_unused_masks(const Sequences& sequences, std::int64_t rows, std::int32_t* masks) {
  for (std::int64_t row = 0; row < rows; ++row)
    std::fill(masks + row * sequences.tokens + sequences.offsets[sequences.count],
              masks + (row + 1) * sequences.tokens, 0);
}

std::int64_t count_from(const std::int32_t* values, std::int64_t count, std::int32_t least) {
  std::int64_t found = 0;
#pragma omp simd reduction(+ : found)
  for (std::int64_t i = 0; i < count; ++i) found += values[i] >= least;
  return found;
}

/// The largest number that at least `wanted` of the values, none negative, reach.
std::int32_t selected_least(const std::int32_t* values, std::int64_t count, std::int64_t wanted) {
  std::int32_t least = 0;
  for (int bit = 30; bit >= 0; --bit)
    if (const std::int32_t raised = least | 1 << bit; count_from(values, count, raised) >= wanted)
      least = raised;
  return least;
}

struct SelectionArrays {
  SelectionArrays(Layout& layout, int count) : bits(layout.take<std::int32_t>(count)) {}
  std::int32_t* bits;  ///< of the weights as floats, [heads, segments that the sequence has]
};

template <class T>
void select_for_token(const Sequences& sequences, const Heads<const T>& weights, const SelectionSize& size,
                      int length, std::int64_t token, std::int32_t* masks) {
  const int used = landmarks_of(length, size.segments), words = selection_words(size.segments);
  std::int32_t* const bits = thread_scratch<SelectionArrays>(weights.heads * used).bits;
  for (int head = 0; head < weights.heads; ++head)
    for (int i = 0; i < used; ++i)
      bits[head * used + i] = std::bit_cast<std::int32_t>(static_cast<float>(weights.row(token, head)[i]));
  const std::int64_t all = std::int64_t{weights.heads} * used,
                     wanted = selected_pairs(size, weights.heads, length);
  const std::int32_t least = selected_least(bits, all, wanted);
  std::int64_t ties = wanted - count_from(bits, all, least + 1);
  for (int head = 0; head < weights.heads; ++head)
    for (int word = 0; word < words; ++word) {
      const int end = std::min(used, (word + 1) * segments_per_word);
      std::uint32_t mask = 0;
      for (int i = word * segments_per_word; i < end; ++i) {
        const std::int32_t value = bits[head * used + i];
        const bool is_selected = value > least || (value == least && ties-- > 0);
        mask |= static_cast<std::uint32_t>(is_selected) << i % segments_per_word;
      }
      masks[(std::int64_t{head} * words + word) * sequences.tokens + token] = static_cast<std::int32_t>(mask);
    }
}

template <class T>
T dot(const T* a, const T* b, int width) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int c = 0; c < width; ++c) sum += a[c] * b[c];
  return sum;
}

template <class T>
void add_scaled(T factor, const T* x, int width, T* y) {
  for (int c = 0; c < width; ++c) y[c] += factor * x[c];
}

/// The keys that one query sees, counted in the batch, and their scores.
template <class T>
struct SeenKeys {
  SeenKeys(Layout& layout, int most) : token(layout.take<std::int32_t>(most)), score(layout.take<T>(most)) {}
  std::int32_t* token;
  T* score;
  int count = 0;

  /// Finds them and their products with q.
  void look(const AttentionInputs<T>& in, const SelectedOptions& options, const AttentionTask& task,
            std::int64_t query) {
    const int length = length_of(task), used = landmarks_of(length, options.size.segments),
              words = selection_words(options.size.segments),
              most = most_segment_keys(options.size, in.q.heads);
    count = 0;
    for (int word = 0; word < words; ++word) {
      auto left = static_cast<std::uint32_t>(
          options.masks[(std::int64_t{task.head} * words + word) * in.q.tokens + query]);
      for (; left != 0; left &= left - 1) {
        const SegmentKeys keys =
            segment_keys(word * segments_per_word + std::countr_zero(left), length, used, most);
        for (int i = 0; i < keys.taken; ++i)
          token[count++] = static_cast<std::int32_t>(task.begin) + keys.key(i);
      }
    }
    const T* const q = in.q.row(query, task.head);
    for (int i = 0; i < count; ++i)
      score[i] = static_cast<T>(options.scale) * dot(q, in.k.row(token[i], task.head), in.q.width);
  }
};

template <class T>
SeenKeys<T> room_for_keys(const AttentionTask& task) {
  return thread_scratch<SeenKeys<T>>(length_of(task));
}

/// dk and dv of the segments of one word, in order of the queries.
template <class T>
struct WordGradients {
  const AttentionInputs<T>& in;
  const SelectedOptions& options;
  const T* lse;
  const T* products;  ///< dout . out, [heads, tokens]
  Heads<const T> dout;
  const AttentionGradients<T>& gradients;

  void run(std::int64_t begin, int length, int head, int word) const {
    const int used = landmarks_of(length, options.size.segments), first = word * segments_per_word,
              words = selection_words(options.size.segments),
              most = most_segment_keys(options.size, in.q.heads);
    if (first >= used) return;
    const int last = std::min(used, first + segments_per_word);
    for (int key = segment_begin(first, length, used); key < segment_begin(last, length, used); ++key)
      for (const Heads<T>& out : {gradients.dk, gradients.dv})
        std::fill(out.row(begin + key, head), out.row(begin + key, head) + out.width, T(0));
    const std::int32_t* const masks = options.masks + (std::int64_t{head} * words + word) * in.q.tokens;
    for (std::int64_t query = begin; query < begin + length; ++query)
      for (auto left = static_cast<std::uint32_t>(masks[query]); left != 0; left &= left - 1) {
        const SegmentKeys keys = segment_keys(first + std::countr_zero(left), length, used, most);
        for (int i = 0; i < keys.taken; ++i) add_pair(query, begin + keys.key(i), head);
      }
  }

 private:
  void add_pair(std::int64_t query, std::int64_t key, int head) const {
    const int width = in.q.width;
    const T *q = in.q.row(query, head), *dy = dout.row(query, head);
    const std::int64_t place = head * in.q.tokens + query;
    const auto scale = static_cast<T>(options.scale);
    const T weight = exponential(scale * dot(q, in.k.row(key, head), width) - lse[place]);
    const T slope = weight * (dot(dy, in.v.row(key, head), width) - products[place]);
    add_scaled(scale * slope, q, width, gradients.dk.row(key, head));
    add_scaled(weight, dy, width, gradients.dv.row(key, head));
  }
};

}  // namespace

template <class T, Isa isa>
void select_segments(Cpu<isa>&, const Sequences& sequences, Heads<const T> weights, int keys,
                     std::int32_t* masks) {
  const SelectionSize size{weights.width, keys};
  clear_unused_masks(sequences, std::int64_t{weights.heads} * selection_words(size.segments), masks);
  for_each_chunk(sequences, 1, [&](const AttentionTask& task) {
    for (std::int64_t token = task.first; token < task.first + task.count; ++token)
      select_for_token(sequences, weights, size, length_of(task), token, masks);
  });
}

template <class T, Isa isa>
void selected_attention_forward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                                const SelectedOptions& options, Heads<T> out, T* lse) {
  clear_unused(sequences, out);
  for_each_chunk(sequences, in.q.heads, [&](const AttentionTask& task) {
    SeenKeys<T> keys = room_for_keys<T>(task);
    for (std::int64_t query = task.first; query < task.first + task.count; ++query) {
      keys.look(in, options, task, query);
      T largest = -std::numeric_limits<T>::infinity(), total = 0;
      for (int i = 0; i < keys.count; ++i) largest = std::max(largest, keys.score[i]);
      for (int i = 0; i < keys.count; ++i) keys.score[i] = exponential(keys.score[i] - largest);
      for (int i = 0; i < keys.count; ++i) total += keys.score[i];
      T* const y = out.row(query, task.head);
      std::fill(y, y + out.width, T(0));
      for (int i = 0; i < keys.count; ++i)
        add_scaled(keys.score[i] / total, in.v.row(keys.token[i], task.head), out.width, y);
      lse[task.head * in.q.tokens + query] = keys.count > 0 ? largest + std::log(total) : largest;
    }
  });
}

template <class T, Isa isa>
void selected_attention_backward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                                 const SelectedOptions& options, const SoftmaxResult<T>& result,
                                 Heads<const T> dout, const AttentionGradients<T>& gradients) {
  for (const Heads<T>& unused : {gradients.dq, gradients.dk, gradients.dv}) clear_unused(sequences, unused);
  const Buffer<T> products(in.q.heads * in.q.tokens);
  for_each_chunk(sequences, in.q.heads, [&](const AttentionTask& task) {
    SeenKeys<T> keys = room_for_keys<T>(task);
    const int head = task.head, width = in.q.width;
    for (std::int64_t query = task.first; query < task.first + task.count; ++query) {
      const std::int64_t place = head * in.q.tokens + query;
      const T* const dy = dout.row(query, head);
      products[place] = dot(dy, result.out.row(query, head), width);
      keys.look(in, options, task, query);
      T* const dq = gradients.dq.row(query, head);
      std::fill(dq, dq + width, T(0));
      for (int i = 0; i < keys.count; ++i) {
        const T weight = exponential(keys.score[i] - result.lse[place]);
        const T slope = weight * (dot(dy, in.v.row(keys.token[i], head), width) - products[place]);
        add_scaled(static_cast<T>(options.scale) * slope, in.k.row(keys.token[i], head), width, dq);
      }
    }
  });
  const WordGradients<T> of_words{in, options, result.lse, products.data(), dout, gradients};
  const int words = selection_words(options.size.segments);
  parallel_for(sequences.count * in.q.heads * words, 1, [&](std::int64_t task) {
    const std::int64_t s = task / words / in.q.heads, begin = sequences.offsets[s];
    const int length = static_cast<int>(sequences.offsets[s + 1] - begin);
    if (length > 0)
      of_words.run(begin, length, static_cast<int>(task / words % in.q.heads), static_cast<int>(task % words));
  });
}

template <class T, Isa isa>
void stretched_unit_rows(Cpu<isa>&, const Sequences& sequences, Heads<T> y) {
  clear_unused(sequences, y);
  for_each_chunk(sequences, y.heads, [&](const AttentionTask& task) {
    const T step = static_cast<T>(y.width - 1) / static_cast<T>(std::max(length_of(task) - 1, 1));
    for (std::int64_t token = task.first; token < task.first + task.count; ++token) {
      const T x = static_cast<T>(token - task.begin) * step;
      T* const row = y.row(token, task.head);
      for (int c = 0; c < y.width; ++c) row[c] = std::max(T(0), T(1) - std::abs(x - static_cast<T>(c)));
    }
  });
}

#define INSTANTIATE(T)                                                                                      \
  template void select_segments<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, int, std::int32_t*);   \
  template void selected_attention_forward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,  \
                                              const SelectedOptions&, Heads<T>, T*);                        \
  template void selected_attention_backward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&, \
                                               const SelectedOptions&, const SoftmaxResult<T>&,             \
                                               Heads<const T>, const AttentionGradients<T>&);               \
  template void stretched_unit_rows<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<T>);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
