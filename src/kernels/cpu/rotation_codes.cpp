// Codes of rows by random rotations: blocks of rows times the directions of their head and round, then the
// place of the largest entry of [products; -products].
#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/tiles.h"
#include "kernels/sorted_attention.h"

namespace tern::kernels {
namespace {

constexpr int block_rows = 64;
constexpr ChunkRule code_rule{.shortest = block_rows, .step = block_rows, .most = std::int64_t{1} << 30};

/// Directions of all heads and rounds, [heads, rounds][width, columns]; columns padded to whole vectors.
template <class T, Isa isa>
class Directions {
 public:
  Directions(const RotationShape& shape, int heads, int width, int columns, const RandomStream& stream)
      : rounds_(shape.rounds),
        width_(width),
        stride_(padded_width<T, isa>(columns)),
        data_(std::int64_t{heads} * rounds_ * width * stride_) {
    const Buffer<float> drawn(std::int64_t{heads} * rounds_ * width * columns);
    parallel_for(std::int64_t{heads} * rounds_, 1, [&](std::int64_t list) {
      const auto count = static_cast<std::int64_t>(width) * columns;
      float* const normals = drawn.data() + list * count;
      fill_normal(stream, 0, rotation_block(static_cast<int>(list / rounds_), static_cast<int>(list % rounds_)),
                  {normals, static_cast<std::size_t>(count)});
      T* const to = data_.data() + list * width * stride_;
      std::fill(to, to + std::int64_t{width} * stride_, T{0});
      for (int column = 0; column < columns; ++column)
        for (int c = 0; c < width; ++c) to[c * stride_ + column] = rounded(normals[column * width + c]);
    });
  }
  Block<const T> of(int head, int round) const {
    return {data_.data() + (std::int64_t{head} * rounds_ + round) * width_ * stride_, stride_};
  }

 private:
  /// To bfloat16, to nearest, ties to even.
  static T rounded(float x) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    return static_cast<T>(__builtin_bit_cast(float, (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u));
  }
  std::int64_t rounds_, width_;
  int stride_;
  Buffer<T> data_;
};

template <class T, Isa isa>
struct CodeArrays {
  CodeArrays(Layout& layout, int width, int columns)
      : rows(layout.take<T>(block_rows * padded_width<T, isa>(width))),
        products(layout.take<T>(block_rows * padded_width<T, isa>(columns))) {}
  T *rows, *products;
};

/// First place of the largest entry of [row; -row]. Overwrites the padding behind the columns. The largest
/// negative begins at row[0] instead of -row[0]: where it stays there, the largest positive is at least as
/// large and is taken.
template <class T, Isa isa>
int largest_place(T* row, int columns) {
  constexpr int lanes = Simd<T, isa>::lanes;
  Vector<T, isa> high = broadcast<T, isa>(row[0]), low = high;
  for (int c = columns; c < round_up(columns, lanes); ++c) row[c] = row[0];
  for (int c = 0; c < columns; c += lanes) {
    high = larger<T, isa>(high, load<T, isa>(row + c));
    low = larger<T, isa>(low, -load<T, isa>(row + c));
  }
  const T most = largest_lane<T, isa>(high), least = -largest_lane<T, isa>(low);
  const T found = most >= -least ? most : least;
  int place = 0;
  while (place + 1 < columns && !(row[place] == found)) ++place;
  return most >= -least ? place : columns + place;
}

}  // namespace

template <class T, Isa isa>
void rotation_codes(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, RotationShape shape,
                    const RandomStream& stream, std::int32_t* codes) {
  const AttentionTasks tasks(sequences, x.heads, code_rule);
  const int most_columns = shape.columns(sequences.longest);
  const Directions<T, isa> directions(shape, x.heads, x.width, most_columns, stream);
  parallel_for(tasks.count(), 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index];
    const int columns = shape.columns(task.end - task.begin), count = static_cast<int>(task.count);
    auto scratch = thread_scratch<CodeArrays<T, isa>>(x.width, std::max(most_columns, 1));
    const int stride = padded_width<T, isa>(x.width), product_stride = padded_width<T, isa>(columns);
    pack<T, isa>(head_rows(x, task.first, count, task.head), T{1}, scratch.rows);
    for (int round = 0; round < shape.rounds; ++round) {
      std::int32_t* const to = codes + (std::int64_t{task.head} * shape.rounds + round) * x.tokens + task.first;
      if (columns == 0) {
        std::fill(to, to + count, 0);
        continue;
      }
      multiply<T, isa, false>({count, x.width, columns}, {scratch.rows, stride, 1},
                              directions.of(task.head, round), {scratch.products, product_stride});
      for (int r = 0; r < count; ++r)
        to[r] = largest_place<T, isa>(scratch.products + r * product_stride, columns);
    }
  });
}

#define INSTANTIATE(T)                                                                             \
  template void rotation_codes<T>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, RotationShape, \
                                  const RandomStream&, std::int32_t*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
