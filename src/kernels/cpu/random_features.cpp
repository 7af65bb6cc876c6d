#include "kernels/random_features.h"

#include <algorithm>
#include <cmath>

#include "base/blas.h"
#include "base/parallel.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t block_tokens = 256;

/// Makes row i of the group at `rows` a unit vector, and those behind it orthogonal to it.
void orthogonalize(double* rows, std::int64_t i, std::int64_t count, std::int64_t width) {
  double* own = rows + i * width;
  double square = 0;
  for (std::int64_t c = 0; c < width; ++c) square += own[c] * own[c];
  const double factor = 1 / std::sqrt(square);
  for (std::int64_t c = 0; c < width; ++c) own[c] *= factor;
  for (std::int64_t j = i + 1; j < count; ++j) {
    double* other = rows + j * width;
    double dot = 0;
    for (std::int64_t c = 0; c < width; ++c) dot += own[c] * other[c];
    for (std::int64_t c = 0; c < width; ++c) other[c] -= dot * own[c];
  }
}

/// Exponents of `rows` tokens from `first` of one head, into y; their largest, at least `most`.
template <class T>
T write_exponents(const PositiveFeatures<T>& in, std::int64_t first, std::int64_t rows, int head, T* y,
                  T most) {
  const std::int64_t stride = std::int64_t{in.x.heads} * in.count;
  T* const to = y + first * stride + std::int64_t{head} * in.count;
  blas::gemm(false, true, rows, in.count, in.x.width, static_cast<T>(in.scale), in.x.row(first, head),
             in.x.token_stride, in.directions, in.x.width, T(0), to, stride);
  for (std::int64_t r = 0; r < rows; ++r) {
    T square = 0, *row = to + r * stride;
    const T* x = in.x.row(first + r, head);
    for (int c = 0; c < in.x.width; ++c) square += x[c] * x[c];
    const T half = static_cast<T>(0.5 * in.scale * in.scale) * square;
    for (int f = 0; f < in.count; ++f) row[f] -= half;
    for (int f = 0; f < in.count; ++f) most = std::max(most, row[f]);
  }
  return most;
}

}  // namespace

template <class T, Isa isa>
void draw_orthogonal(Cpu<isa>&, const RedrawSchedule& schedule, Rows<T> out) {
  const std::uint32_t epoch = schedule.epoch();
  const RandomStream stream{schedule.stream.key, &epoch};
  const std::int64_t size = out.rows * out.width;
  const Buffer<float> normals(2 * size);
  const Buffer<double> rows(size);
  const auto count = static_cast<std::size_t>(size);
  fill_normal(stream, 0, 0, {normals.data(), count});
  fill_normal(stream, 1, 0, {normals.data() + size, count});
  for (std::int64_t i = 0; i < size; ++i) rows[i] = static_cast<double>(normals[i]);
  for (std::int64_t i = 0; i < out.rows; ++i) {
    const std::int64_t group = i / out.width * out.width;
    orthogonalize(rows.data() + group * out.width, i - group, std::min(out.width, out.rows - group), out.width);
    double square = 0;
    for (std::int64_t c = 0; c < out.width; ++c) {
      const auto drawn = static_cast<double>(normals[size + i * out.width + c]);
      square += drawn * drawn;
    }
    for (std::int64_t c = 0; c < out.width; ++c)
      out.row(i)[c] = static_cast<T>(
          to_float(to_bfloat16(static_cast<float>(rows[i * out.width + c] * std::sqrt(square)))));
  }
}

template <class T, Isa isa>
void positive_features_forward(Cpu<isa>&, const Sequences& sequences, const PositiveFeatures<T>& in, T* y) {
  const std::int64_t stride = std::int64_t{in.x.heads} * in.count;
  std::fill(y + sequences.offsets[sequences.count] * stride, y + in.x.tokens * stride, T(0));
  parallel_for(sequences.count * in.x.heads, 1, [&](std::int64_t task) {
    const int head = static_cast<int>(task % in.x.heads);
    const std::int64_t begin = sequences.offsets[task / in.x.heads],
                       end = sequences.offsets[task / in.x.heads + 1];
    if (begin == end) return;
    T most = -INFINITY;
    for (std::int64_t first = begin; first < end; first += block_tokens)
      most = write_exponents(in, first, std::min(block_tokens, end - first), head, y, most);
    for (std::int64_t t = begin; t < end; ++t) {
      T* row = y + t * stride + std::int64_t{head} * in.count;
      if (!in.is_key) most = *std::max_element(row, row + in.count);
      const T shift = static_cast<T>(static_cast<float>(most)), floor = static_cast<T>(in.stabilizer);
      for (int f = 0; f < in.count; ++f) row[f] = exponential(row[f] - shift) + floor;
    }
  });
}

template <class T, Isa isa>
void positive_features_backward(Cpu<isa>&, const PositiveFeatures<T>& in, const T* y, const T* dy, T* dx) {
  const std::int64_t blocks = (in.x.tokens + block_tokens - 1) / block_tokens, width = in.x.width;
  parallel_for(blocks * in.x.heads, 1, [&](std::int64_t task) {
    const int head = static_cast<int>(task % in.x.heads);
    const std::int64_t first = task / in.x.heads * block_tokens,
                       rows = std::min(block_tokens, in.x.tokens - first);
    T* const slopes = reinterpret_cast<T*>(thread_bytes(sizeof(T) * static_cast<std::size_t>(rows * in.count)));
    const auto packed = [&](std::int64_t r, std::int64_t row_width) {
      return ((first + r) * in.x.heads + head) * row_width;
    };
    const T floor = static_cast<T>(in.stabilizer);
    for (std::int64_t r = 0; r < rows; ++r) {
      const T *values = y + packed(r, in.count), *d = dy + packed(r, in.count);
      for (int f = 0; f < in.count; ++f) slopes[r * in.count + f] = d[f] * (values[f] - floor);
    }
    blas::gemm(false, false, rows, width, in.count, static_cast<T>(in.scale), slopes, in.count, in.directions,
               width, T(0), dx + packed(0, width), in.x.heads * width);
    for (std::int64_t r = 0; in.is_key && r < rows; ++r) {
      T total = 0, *to = dx + packed(r, width);
      for (int f = 0; f < in.count; ++f) total += slopes[r * in.count + f];
      const T factor = static_cast<T>(in.scale * in.scale) * total, *x = in.x.row(first + r, head);
      for (std::int64_t c = 0; c < width; ++c) to[c] -= factor * x[c];
    }
  });
}

#define INSTANTIATE(T)                                                                                        \
  template void draw_orthogonal<T>(Cpu<TERN_ISA>&, const RedrawSchedule&, Rows<T>);                           \
  template void positive_features_forward<T>(Cpu<TERN_ISA>&, const Sequences&, const PositiveFeatures<T>&,    \
                                             T*);                                                             \
  template void positive_features_backward<T>(Cpu<TERN_ISA>&, const PositiveFeatures<T>&, const T*, const T*, \
                                              T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
