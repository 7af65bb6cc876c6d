#include "kernels/landmarks.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t chunk_tokens = 2048;  ///< tokens of one partial sum of a column

int length_of(const Sequences& sequences, std::int64_t s) {
  return sequences.offsets[s + 1] - sequences.offsets[s];
}

/// Calls body(sequence, head), in parallel.
template <class Body>
void for_each_pair(const Sequences& sequences, int heads, const Body& body) {
  parallel_for(sequences.count * heads, 1,
               [&](std::int64_t pair) { body(pair / heads, static_cast<int>(pair % heads)); });
}

/// Calls body(sequence, token, its place in the sequence), in parallel.
template <class Body>
void for_each_token(const Sequences& sequences, const Body& body) {
  const std::int64_t parts = (sequences.longest + chunk_tokens - 1) / chunk_tokens;
  parallel_for(sequences.count * parts, 1, [&](std::int64_t task) {
    const std::int64_t s = task / parts, begin = sequences.offsets[s];
    const std::int64_t first = begin + task % parts * chunk_tokens,
                       end = std::min<std::int64_t>(first + chunk_tokens, sequences.offsets[s + 1]);
    for (std::int64_t t = first; t < end; ++t) body(s, t, static_cast<int>(t - begin));
  });
}

/// Softmax of the first `used` of `width` entries, zeros behind them.
template <class T>
void softmax_row(const T* x, int used, int width, T* y) {
  T largest = x[0], total = 0;
#pragma omp simd reduction(max : largest)
  for (int i = 1; i < used; ++i) largest = x[i] > largest ? x[i] : largest;
  for (int i = 0; i < used; ++i) y[i] = exponential(x[i] - largest);
#pragma omp simd reduction(+ : total)
  for (int i = 0; i < used; ++i) total += y[i];
  const T scale = T(1) / total;
  for (int i = 0; i < used; ++i) y[i] *= scale;
  std::fill(y + used, y + width, T(0));
}

/// Calls body(first token, tokens) for the chunks of a sequence, in order.
template <class Body>
void for_each_chunk(const Sequences& sequences, std::int64_t s, const Body& body) {
  const std::int64_t end = sequences.offsets[s + 1];
  for (std::int64_t first = sequences.offsets[s]; first < end; first += chunk_tokens)
    body(first, std::min(chunk_tokens, end - first));
}

/// totals[i] = the sum of value(token, i), chunk by chunk; `partial` holds `width` numbers.
template <class T, class Value>
void sum_columns(const Sequences& sequences, std::int64_t s, int width, T* totals, T* partial,
                 const Value& value) {
  std::fill(totals, totals + width, T(0));
  for_each_chunk(sequences, s, [&](std::int64_t first, std::int64_t count) {
    std::fill(partial, partial + width, T(0));
    for (std::int64_t t = first; t < first + count; ++t) value(t, partial);
    for (int i = 0; i < width; ++i) totals[i] += partial[i];
  });
}

template <class T>
struct ColumnArrays {
  ColumnArrays(Layout& layout, int width)
      : first(layout.take<T>(width)), second(layout.take<T>(width)), third(layout.take<T>(width)) {}
  T *first, *second, *third;
};

/// Token i alone has weight for landmark i.
template <class T>
void write_identity(const Sequences& sequences, std::int64_t s, int head, const Heads<T>& y) {
  for (int place = 0; place < length_of(sequences, s); ++place) {
    T* const row = y.row(sequences.offsets[s] + place, head);
    std::fill(row, row + y.width, T(0));
    row[place] = 1;
  }
}

}  // namespace

template <class T, Isa isa>
void segment_means_forward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, int landmarks, T* means) {
  for_each_pair(sequences, x.heads, [&](std::int64_t s, int head) {
    const int length = length_of(sequences, s), used = landmarks_of(length, landmarks);
    T* to = means + (s * x.heads + head) * landmarks * x.width;
    std::fill(to, to + std::int64_t{landmarks} * x.width, T(0));
    for (int i = 0; i < used; ++i, to += x.width) {
      const int begin = segment_begin(i, length, used), end = segment_begin(i + 1, length, used);
      for (int place = begin; place < end; ++place) {
        const T* from = x.row(sequences.offsets[s] + place, head);
        for (int c = 0; c < x.width; ++c) to[c] += from[c];
      }
      for (int c = 0; c < x.width; ++c) to[c] /= static_cast<T>(end - begin);
    }
  });
}

template <class T, Isa isa>
void segment_means_backward(Cpu<isa>&, const Sequences& sequences, int landmarks, const T* dmeans,
                            Heads<T> dx) {
  clear_unused(sequences, dx);
  for_each_token(sequences, [&](std::int64_t s, std::int64_t token, int place) {
    const int length = length_of(sequences, s), used = landmarks_of(length, landmarks);
    const int i = segment_of(place, length, used);
    const T share = T(1) / static_cast<T>(segment_begin(i + 1, length, used) - segment_begin(i, length, used));
    for (int head = 0; head < dx.heads; ++head) {
      const T* from = dmeans + ((s * dx.heads + head) * landmarks + i) * dx.width;
      T* to = dx.row(token, head);
      for (int c = 0; c < dx.width; ++c) to[c] = share * from[c];
    }
  });
}

template <class T, Isa isa>
void softmax_over_landmarks(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, Heads<T> y) {
  clear_unused(sequences, y);
  for_each_token(sequences, [&](std::int64_t s, std::int64_t token, int) {
    const int used = landmarks_of(length_of(sequences, s), x.width);
    for (int head = 0; head < x.heads; ++head)
      softmax_row(x.row(token, head), used, x.width, y.row(token, head));
  });
}

template <class T, Isa isa>
void softmax_between_landmarks(Cpu<isa>&, const Sequences& sequences, int heads, int landmarks, const T* x,
                               T* y) {
  for_each_pair(sequences, heads, [&](std::int64_t s, int head) {
    const bool is_identity = length_of(sequences, s) <= landmarks;
    for (int i = 0; i < landmarks; ++i) {
      const std::int64_t row = ((s * heads + head) * landmarks + i) * landmarks;
      if (is_identity) {
        std::fill(y + row, y + row + landmarks, T(0));
        y[row + i] = 1;
      } else {
        softmax_row(x + row, landmarks, landmarks, y + row);
      }
    }
  });
}

template <class T, Isa isa>
void softmax_over_tokens(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, Heads<T> y) {
  clear_unused(sequences, y);
  for_each_pair(sequences, x.heads, [&](std::int64_t s, int head) {
    if (length_of(sequences, s) <= x.width) return write_identity(sequences, s, head, y);
    const auto [largest, totals, partial] = thread_scratch<ColumnArrays<T>>(x.width);
    const T* begin = x.row(sequences.offsets[s], head);
    std::copy(begin, begin + x.width, largest);
    for (std::int64_t t = sequences.offsets[s]; t < sequences.offsets[s + 1]; ++t) {
      const T* row = x.row(t, head);
      for (int i = 0; i < x.width; ++i) largest[i] = row[i] > largest[i] ? row[i] : largest[i];
    }
    sum_columns(sequences, s, x.width, totals, partial, [&](std::int64_t t, T* sums) {
      const T* from = x.row(t, head);
      T* to = y.row(t, head);
      for (int i = 0; i < x.width; ++i) to[i] = exponential(from[i] - largest[i]);
      for (int i = 0; i < x.width; ++i) sums[i] += to[i];
    });
    for (int i = 0; i < x.width; ++i) totals[i] = T(1) / totals[i];
    for (std::int64_t t = sequences.offsets[s]; t < sequences.offsets[s + 1]; ++t)
      for (int i = 0; i < x.width; ++i) y.row(t, head)[i] *= totals[i];
  });
}

template <class T, Isa isa>
void softmax_over_tokens_backward(Cpu<isa>&, const Sequences& sequences, Heads<const T> y, Heads<const T> dy,
                                  Heads<T> dx) {
  clear_unused(sequences, dx);
  for_each_pair(sequences, y.heads, [&](std::int64_t s, int head) {
    const auto [totals, partial, unused] = thread_scratch<ColumnArrays<T>>(y.width);
    static_cast<void>(unused);
    sum_columns(sequences, s, y.width, totals, partial, [&](std::int64_t t, T* sums) {
      const T *weights = y.row(t, head), *slopes = dy.row(t, head);
      for (int i = 0; i < y.width; ++i) sums[i] += weights[i] * slopes[i];
    });
    for (std::int64_t t = sequences.offsets[s]; t < sequences.offsets[s + 1]; ++t) {
      const T *weights = y.row(t, head), *slopes = dy.row(t, head);
      T* to = dx.row(t, head);
      for (int i = 0; i < y.width; ++i) to[i] = weights[i] * (slopes[i] - totals[i]);
    }
  });
}

#define INSTANTIATE(T)                                                                                  \
  template void segment_means_forward<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, int, T*);    \
  template void segment_means_backward<T>(Cpu<TERN_ISA>&, const Sequences&, int, const T*, Heads<T>);   \
  template void softmax_over_landmarks<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, Heads<T>);  \
  template void softmax_between_landmarks<T>(Cpu<TERN_ISA>&, const Sequences&, int, int, const T*, T*); \
  template void softmax_over_tokens<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, Heads<T>);     \
  template void softmax_over_tokens_backward<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>,       \
                                                Heads<const T>, Heads<T>);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
