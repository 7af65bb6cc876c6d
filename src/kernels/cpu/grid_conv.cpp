// A task copies the rows that a chunk of tokens reads between columns of zeros, and the loops need no borders.
// Chunks depend on lengths alone. The gradient of x is the convolution of dy with turned filters.
#include "kernels/grid_conv.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

constexpr ChunkRule token_rule{.shortest = 32, .step = 1, .most = 1 << 30};

/// The rows of a chunk, of the token before and of the one behind it, with a column of zeros on both sides.
template <class T>
struct FramedRows {
  FramedRows(Layout& layout, int tokens, int channels, int width)
      : data(layout.take<T>((tokens + 2) * channels * (width + 2))), channels(channels), stride(width + 2) {}
  T* data;
  int channels, stride;

  /// The row of token `offset` - 1 of the chunk, from the column of zeros on.
  T* row(int offset, int channel) const { return data + (offset * channels + channel) * stride; }

  /// Copies x, or relu(x).
  void fill(const AttentionTask& task, const Heads<const T>& x, bool of_relu) const {
    for (int offset = 0; offset < static_cast<int>(task.count) + 2; ++offset) {
      const std::int64_t token = task.first + offset - 1;
      const bool is_there = token >= task.begin && token < task.end;
      for (int c = 0; c < channels; ++c) {
        T* const to = row(offset, c);
        to[0] = to[stride - 1] = 0;
        if (!is_there)
          std::fill(to, to + stride, T(0));
        else if (of_relu)
          std::transform(x.row(token, c), x.row(token, c) + x.width, to + 1,
                         [](T value) { return value <= 0 ? T(0) : value; });
        else
          std::copy(x.row(token, c), x.row(token, c) + x.width, to + 1);
      }
    }
  }
};

template <class T>
Heads<T> packed(T* data, std::int64_t tokens, int channels, int width) {
  return {data, tokens, channels, width, std::int64_t{channels} * width, width};
}

/// `count` rows of outputs y[o] += the filters weight + o * stride over one input channel of 3 rows.
template <int count, class T>
void add_filtered(const T* const (&x)[3], const T* weight, std::int64_t stride, int width, T* const* y) {
  T w[count][grid_taps];
  for (int o = 0; o < count; ++o) std::copy(weight + o * stride, weight + o * stride + grid_taps, w[o]);
  T *y0 = y[0], *y1 = y[count > 1 ? 1 : 0], *y2 = y[count > 2 ? 2 : 0], *y3 = y[count > 3 ? 3 : 0];
#pragma omp simd
  for (int j = 0; j < width; ++j) {
    const auto filtered = [&](const T(&f)[grid_taps]) {
      return f[0] * x[0][j] + f[1] * x[0][j + 1] + f[2] * x[0][j + 2] + f[3] * x[1][j] + f[4] * x[1][j + 1] +
             f[5] * x[1][j + 2] + f[6] * x[2][j] + f[7] * x[2][j + 1] + f[8] * x[2][j + 2];
    };
    y0[j] += filtered(w[0]);
    if constexpr (count > 1) y1[j] += filtered(w[1]);
    if constexpr (count > 2) y2[j] += filtered(w[2]);
    if constexpr (count > 3) y3[j] += filtered(w[3]);
  }
}

/// y of one sequence's chunk. A null bias stands for zeros. y is 0 where `before`, if it is not null, is not
/// positive: the gradient of a relu.
template <class T>
void filter_chunk(const AttentionTask& task, const FramedRows<T>& x, const GridFilters<T>& filters,
                  const T* bias, const Heads<const T>* before, const Heads<T>& y) {
  constexpr int group = 4;
  const std::int64_t stride = std::int64_t{filters.inputs} * grid_taps;
  for (int t = 0; t < static_cast<int>(task.count); ++t)
    for (int o = 0; o < filters.outputs; o += group) {
      const int count = std::min(group, filters.outputs - o);
      T* rows[group];
      for (int i = 0; i < count; ++i) {
        rows[i] = y.row(task.first + t, o + i);
        std::fill(rows[i], rows[i] + y.width, bias != nullptr ? bias[o + i] : T(0));
      }
      for (int c = 0; c < filters.inputs; ++c) {
        const T* const from[3] = {x.row(t, c), x.row(t + 1, c), x.row(t + 2, c)};
        const T* const weight = filters.weight + o * stride + c * grid_taps;
        if (count == group)
          add_filtered<group>(from, weight, stride, y.width, rows);
        else
          for (int i = 0; i < count; ++i) add_filtered<1>(from, weight + i * stride, stride, y.width, rows + i);
      }
      for (int i = 0; i < count && before != nullptr; ++i) {
        const T* const value = before->row(task.first + t, o + i);
        for (int j = 0; j < y.width; ++j) rows[i][j] = value[j] <= 0 ? T(0) : rows[i][j];
      }
    }
}

template <class T>
void filter_rows(const Sequences& sequences, const Heads<const T>& x, const GridFilters<T>& filters,
                 const T* bias, const Heads<const T>* before, const Heads<T>& y) {
  clear_unused(sequences, y);
  const AttentionTasks tasks(sequences, 1, token_rule);
  parallel_for(tasks.count(), 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index];
    const auto rows = thread_scratch<FramedRows<T>>(static_cast<int>(task.count), x.heads, x.width);
    rows.fill(task, x, filters.of_relu);
    filter_chunk(task, rows, filters, bias, before, y);
  });
}

/// sums [outputs, inputs, taps] and, behind them, [outputs]: the gradients of weight and bias from one chunk.
template <class T>
void sum_chunk(const AttentionTask& task, const FramedRows<T>& x, const GridFilters<T>& filters,
               const Heads<const T>& dy, T* sums) {
  const std::int64_t weights = std::int64_t{filters.outputs} * filters.inputs * grid_taps;
  std::fill(sums, sums + weights + filters.outputs, T(0));
  for (int t = 0; t < static_cast<int>(task.count); ++t)
    for (int o = 0; o < filters.outputs; ++o) {
      const T* const d = dy.row(task.first + t, o);
      T total = 0;
#pragma omp simd reduction(+ : total)
      for (int j = 0; j < dy.width; ++j) total += d[j];
      sums[weights + o] += total;
      for (int c = 0; c < filters.inputs; ++c)
        for (int a = 0; a < 3; ++a) {
          const T* const row = x.row(t + a, c);
          T left = 0, middle = 0, right = 0;
#pragma omp simd reduction(+ : left, middle, right)
          for (int j = 0; j < dy.width; ++j) {
            left += d[j] * row[j];
            middle += d[j] * row[j + 1];
            right += d[j] * row[j + 2];
          }
          T* const to = sums + (std::int64_t{o} * filters.inputs + c) * grid_taps + 3 * a;
          to[0] += left;
          to[1] += middle;
          to[2] += right;
        }
    }
}

}  // namespace

template <class T, Isa isa>
void grid_conv_forward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const GridFilters<T>& filters,
                       const T* bias, T* y) {
  filter_rows(sequences, x, filters, bias, static_cast<const Heads<const T>*>(nullptr),
              packed(y, x.tokens, filters.outputs, x.width));
}

template <class T, Isa isa>
void grid_conv_backward(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, const GridFilters<T>& filters,
                        Heads<const T> dy, const GridGradients<T, T>& gradients) {
  const int outputs = filters.outputs, inputs = filters.inputs;
  const std::int64_t weights = std::int64_t{outputs} * inputs * grid_taps, sums = weights + outputs;
  if (gradients.dx != nullptr) {
    const Buffer<T> turned(weights);
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < inputs; ++i)
        for (int tap = 0; tap < grid_taps; ++tap)
          turned[(std::int64_t{i} * outputs + o) * grid_taps + grid_taps - 1 - tap] =
              filters.weight[(std::int64_t{o} * inputs + i) * grid_taps + tap];
    filter_rows(sequences, dy, {turned.data(), inputs, outputs}, static_cast<const T*>(nullptr),
                filters.of_relu ? &x : nullptr, packed(gradients.dx, x.tokens, inputs, x.width));
  }
  if (gradients.dweight == nullptr) return;
  const AttentionTasks tasks(sequences, 1, token_rule);
  const Buffer<T> partial(tasks.count() * sums);
  parallel_for(tasks.count(), 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index];
    const auto rows = thread_scratch<FramedRows<T>>(static_cast<int>(task.count), x.heads, x.width);
    rows.fill(task, x, filters.of_relu);
    sum_chunk(task, rows, filters, dy, partial.data() + index * sums);
  });
  for (std::int64_t index = 0; index < tasks.count(); ++index) {
    const T* const from = partial.data() + index * sums;
    for (std::int64_t i = 0; i < weights; ++i) gradients.dweight[i] += from[i];
    for (int o = 0; o < outputs; ++o) gradients.dbias[o] += from[weights + o];
  }
}

#define INSTANTIATE(T)                                                                                         \
  template void grid_conv_forward<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, const GridFilters<T>&,  \
                                     const T*, T*);                                                            \
  template void grid_conv_backward<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, const GridFilters<T>&, \
                                      Heads<const T>, const GridGradients<T, T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
