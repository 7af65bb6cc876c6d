// Sums over colliding rows. For each hash: number the buckets that hold a source, add every source row into its
// bucket's row, let every target add the row of its bucket; row 0 stays zero for targets without a partner.
// Columns are independent, so few heads are worked off in slices of columns without changing a bit.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/buckets.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/work_items.h"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

// A bucket's row is a sum of partial sums of this many rows, which bounds the rounding error of crowded
// buckets.
constexpr std::uint32_t partial_rows = 256;

// Rows of the table between asking for one and using it.
constexpr std::int64_t ahead = 16;
template <class T>
constexpr std::int64_t line_values = cache_line / sizeof(T);

template <class T, class Code, Isa isa>
struct SumBuffers {
  SumBuffers(Layout& layout, std::int64_t length, std::int64_t width, std::int64_t all_codes)
      : codes(all_codes),
        number(layout.take<std::uint32_t>(all_codes)),
        ids(layout.take<std::uint32_t>(length)),
        target_ids(layout.take<std::uint32_t>(length)),
        filled(layout.take<std::uint32_t>(Buckets<Code, isa>::most(length))),
        partial_ids(layout.take<std::uint32_t>(length / partial_rows + 1)),
        value(layout.take<T>(length * width)),
        sum(layout.take<T>(length * width)),
        table(layout.take<T>(Buckets<Code, isa>::most(length) * width)),
        partial(layout.take<T>((length / partial_rows + 1) * width)) {}
  void clear() { std::memset(number, 0, static_cast<std::size_t>(codes) * sizeof(*number)); }

  std::int64_t codes;
  std::uint32_t *number, *ids, *target_ids, *filled, *partial_ids;
  T *value, *sum, *table, *partial;
};

/// Adds source rows into the rows of their buckets.
template <int fixed, class T, class Code, Isa isa>
void fill_table(const SumBuffers<T, Code, isa>& buffers, std::int64_t length, std::int64_t vectors) {
  using L = Lanes<T, isa>;
  const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
  std::int64_t partials = 0;
  for (std::int64_t j = 0; j < length; ++j) {
    const T* later = buffers.table + buffers.ids[std::min(j + ahead, length - 1)] * width;
    for (std::int64_t c = 0; c < width; c += line_values<T>) __builtin_prefetch(later + c, 1);
    const std::uint32_t id = buffers.ids[j];
    T* row = buffers.table + id * width;
    const T* value = buffers.value + j * width;
    for (std::int64_t v = 0; v < count; ++v) {
      L::store(row + v * L::count, L::load(row + v * L::count) + L::load(value + v * L::count));
    }
    if (++buffers.filled[id] == partial_rows) [[unlikely]] {
      std::copy_n(row, width, buffers.partial + partials * width);
      std::fill_n(row, width, T{});
      buffers.partial_ids[partials++] = id;
      buffers.filled[id] = 0;
    }
  }
  for (std::int64_t p = 0; p < partials; ++p) {
    T* row = buffers.table + buffers.partial_ids[p] * width;
    for (std::int64_t c = 0; c < width; ++c) row[c] += buffers.partial[p * width + c];
  }
}

/// Adds to each target the row of its bucket.
template <int fixed, class T, class Code, Isa isa>
void gather(const SumBuffers<T, Code, isa>& buffers, std::int64_t length, std::int64_t vectors) {
  using L = Lanes<T, isa>;
  const std::int64_t count = fixed > 0 ? fixed : vectors, width = count * L::count;
  for (std::int64_t i = 0; i < length; ++i) {
    const T* later = buffers.table + buffers.target_ids[std::min(i + ahead, length - 1)] * width;
    for (std::int64_t c = 0; c < width; c += line_values<T>) __builtin_prefetch(later + c);
    const T* row = buffers.table + buffers.target_ids[i] * width;
    T* sum = buffers.sum + i * width;
    for (std::int64_t v = 0; v < count; ++v) {
      L::store(sum + v * L::count, L::load(sum + v * L::count) + L::load(row + v * L::count));
    }
  }
}

/// A contiguous run of tokens of one head and some of its columns.
struct Slice {
  std::int64_t begin, length, column, columns;
  int head;
};

template <class T, class Code, Isa isa>
struct BucketSum {
  HashShape shape;
  const Code* source_codes;
  Heads<const T> value;
  const Code* codes;
  Heads<T> out;

  void run(const Slice& slice, const SumBuffers<T, Code, isa>& buffers) const {
    using L = Lanes<T, isa>;
    const std::int64_t vectors = L::padded(slice.columns) / L::count, width = vectors * L::count;
    for (std::int64_t j = 0; j < slice.length; ++j) {
      T* row = buffers.value + j * width;
      std::copy_n(value.row(slice.begin + j, slice.head) + slice.column, slice.columns, row);
      std::fill(row + slice.columns, row + width, T{});
    }
    std::fill_n(buffers.sum, slice.length * width, T{});
    const Buckets<Code, isa> buckets{buffers.number, buffers.codes};
    for (int r = 0; r < shape.hashes; ++r) {
      const std::int64_t place =
          (static_cast<std::int64_t>(slice.head) * shape.hashes + r) * value.tokens + slice.begin;
      const std::uint32_t used = buckets.assign(source_codes + place, slice.length, buffers.ids);
      buckets.find(codes + place, slice.length, buffers.target_ids);
      buckets.release(source_codes + place, slice.length);
      std::fill_n(buffers.table, (used + 1) * width, T{});
      std::fill_n(buffers.filled, used + 1, 0u);
      with_vector_count<isa>(vectors, [&](auto fixed) {
        fill_table<fixed()>(buffers, slice.length, vectors);
        gather<fixed()>(buffers, slice.length, vectors);
      });
    }
    const T scale = T{1} / static_cast<T>(shape.hashes);
    for (std::int64_t i = 0; i < slice.length; ++i) {
      T* row = out.row(slice.begin + i, slice.head) + slice.column;
      for (std::int64_t c = 0; c < slice.columns; ++c) row[c] = scale * buffers.sum[i * width + c];
    }
  }
};

}  // namespace

template <class T, class Code, Isa isa>
void bucket_sum(Cpu<isa>&, const Sequences& sequences, HashShape shape, const Code* source_codes,
                Heads<const T> value, const Code* codes, Heads<T> out) {
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    longest = std::max<std::int64_t>(longest, sequences.offsets[s + 1] - sequences.offsets[s]);
  }
  const std::int64_t pairs = sequences.count * value.heads;
  // Columns of a slice: one cache line of floats where few pairs are to occupy all workers, two lines where a
  // table of whole rows would not fit the cache that the cores share.
  constexpr std::int64_t narrow = 16, two_lines = 2 * line_values<T>, wide = 128, most_bytes = 16 << 20;
  constexpr std::int64_t most_elements = most_bytes / static_cast<std::int64_t>(sizeof(T));
  const bool fits = longest * std::min<std::int64_t>(value.width, wide) <= most_elements;
  const std::int64_t most = pairs < 2 * threads() ? narrow : fits ? wide : two_lines;
  const std::int64_t columns = std::min<std::int64_t>(value.width, most);
  if (longest == 0 || columns == 0) return;
  const std::int64_t slices = (value.width + columns - 1) / columns;
  const BucketSum<T, Code, isa> kernel{shape, source_codes, value, codes, out};
  for_each_item<isa>(
      pairs * slices,
      [&](Layout& layout) {
        return SumBuffers<T, Code, isa>(layout, longest, Lanes<T, isa>::padded(columns),
                                        std::int64_t{1} << shape.bits);
      },
      [&](std::int64_t item, const SumBuffers<T, Code, isa>& buffers) {
        const std::int64_t column = item % slices * columns, sequence = item / slices / value.heads;
        const std::int64_t begin = sequences.offsets[sequence];
        kernel.run({.begin = begin,
                    .length = sequences.offsets[sequence + 1] - begin,
                    .column = column,
                    .columns = std::min(columns, value.width - column),
                    .head = static_cast<int>(item / slices % value.heads)},
                   buffers);
      });
}

#define TERN_INSTANTIATE(T, Code)                                                                             \
  template void bucket_sum<T, Code>(Cpu<TERN_ISA>&, const Sequences&, HashShape, const Code*, Heads<const T>, \
                                    const Code*, Heads<T>);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
