// Softmax over the tokens of sequences, by column. Deterministic: a block takes a chunk of a sequence for one
// head and a few columns; the chunks' maxima and sums are merged in order by every block of the second pass.
// Rows are read twice, in 16-byte packs where alignment allows.
#include <cmath>
#include <limits>

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/landmarks.h"

namespace tern::kernels {
namespace {

constexpr int pack_lanes = 8, row_lanes = 32;  ///< packs of columns and rows that a block takes at once
constexpr int threads_per_block = pack_lanes * row_lanes;
constexpr int least_chunk = 256, most_chunks = 64;

/// How sequences are cut, by the longest of the batch.
struct Chunks {
  int length, count;
};

/// exp(x) summed relative to the largest x.
template <class A>
struct Exponentials {
  A largest, total;
  __device__ static Exponentials none() { return {-std::numeric_limits<A>::infinity(), 0}; }
  __device__ void add(A value) {
    if (value > largest) {
      total *= std::exp(largest - value);
      largest = value;
    }
    total += std::exp(value - largest);
  }
  __device__ void merge(const Exponentials& other) {
    if (other.largest > largest) {
      total *= std::exp(largest - other.largest);
      largest = other.largest;
    }
    if (other.total != 0) total += other.total * std::exp(other.largest - largest);
  }
};

/// The tokens and columns of a thread: rows first + row, first + row + row_lanes, ... before end.
struct Place {
  SequenceRange range;
  int part, head, row, column;
  std::int64_t first, end;
  bool is_unused;  ///< rows that belong to no sequence
  __device__ std::int64_t partial(const Chunks& chunks, int heads, int width) const {
    return ((std::int64_t{range.index} * chunks.count + part) * heads + head) * width;
  }
};
template <int items>
__device__ __forceinline__ Place place_of(const Sequences& sequences, const Chunks& chunks) {
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / chunks.count);
  const int part = static_cast<int>(blockIdx.x) % chunks.count;
  const std::int64_t first = range.begin + std::int64_t{part} * chunks.length,
                     end = std::int64_t{range.begin} + range.length;
  return {range,
          part,
          static_cast<int>(blockIdx.y),
          static_cast<int>(threadIdx.x) / pack_lanes,
          (static_cast<int>(blockIdx.z) * pack_lanes + static_cast<int>(threadIdx.x) % pack_lanes) * items,
          first,
          first + chunks.length < end ? first + chunks.length : end,
          range.index == sequences.count};
}

/// Zeros for the rows outside all sequences: the blocks of the index behind the last sequence share them.
template <int items, class T>
__device__ void clear_unused(const Place& place, const Chunks& chunks, const Heads<T>& y) {
  const std::int64_t end = std::int64_t{place.range.begin} + place.range.length;
  if (place.column >= y.width) return;
  for (std::int64_t t = place.range.begin + place.part * row_lanes + place.row; t < end;
       t += std::int64_t{chunks.count} * row_lanes)
    store_pack(row_of(y, t, place.head) + place.column, Pack<T, items>{});
}

/// The entries of a block's columns, added over its rows by the first threads and written to `partial`.
template <int items, class Entry>
__device__ __forceinline__ void reduce_rows(const Entry (&own)[items], const Place& place, int width,
                                            Entry* partial) {
  __shared__ Entry entries[row_lanes][pack_lanes * items];
  const int lane = static_cast<int>(threadIdx.x) % pack_lanes;
#pragma unroll
  for (int e = 0; e < items; ++e) entries[place.row][lane * items + e] = own[e];
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  const int column = static_cast<int>(blockIdx.z) * pack_lanes * items + i;
  if (i >= pack_lanes * items || column >= width) return;
  Entry sum = entries[0][i];
  for (int row = 1; row < row_lanes; ++row) sum.merge(entries[row][i]);
  partial[column] = sum;
}

/// The sum over a sequence's chunks for each column of the block, in shared memory.
template <int items, class Entry>
__device__ __forceinline__ const Entry* merge_chunks(const Place& place, const Chunks& chunks, int heads,
                                                     int width, const Entry* partial) {
  __shared__ Entry merged[pack_lanes * items];
  const int i = static_cast<int>(threadIdx.x);
  const int column = static_cast<int>(blockIdx.z) * pack_lanes * items + i;
  if (i < pack_lanes * items && column < width) {
    Place from = place;
    Entry sum = Entry::none();
    const int parts = (place.range.length + chunks.length - 1) / chunks.length;
    for (from.part = 0; from.part < parts; ++from.part)
      sum.merge(partial[from.partial(chunks, heads, width) + column]);
    merged[i] = sum;
  }
  __syncthreads();
  return merged + static_cast<int>(threadIdx.x) % pack_lanes * items;
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    measure_columns(Sequences sequences, Heads<const T> x, Chunks chunks,
                    Exponentials<Accumulate<T>>* partial) {
  const Place place = place_of<items>(sequences, chunks);
  if (place.range.length <= x.width || place.first >= place.end) return;
  Exponentials<Accumulate<T>> own[items];
#pragma unroll
  for (auto& entry : own) entry = entry.none();
  if (place.column < x.width)
    for (std::int64_t t = place.first + place.row; t < place.end; t += row_lanes) {
      const Pack<T, items> pack = load_pack<items>(row_of(x, t, place.head) + place.column);
#pragma unroll
      for (int e = 0; e < items; ++e) own[e].add(to_accumulate(pack.item[e]));
    }
  reduce_rows<items>(own, place, x.width, partial + place.partial(chunks, x.heads, x.width));
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    write_columns(Sequences sequences, Heads<const T> x, Chunks chunks,
                  const Exponentials<Accumulate<T>>* partial, Heads<T> y) {
  using A = Accumulate<T>;
  const Place place = place_of<items>(sequences, chunks);
  if (place.is_unused) return clear_unused<items>(place, chunks, y);
  if (place.first >= place.end) return;
  const bool is_identity = place.range.length <= x.width;
  const Exponentials<A>* columns =
      is_identity ? nullptr : merge_chunks<items>(place, chunks, x.heads, x.width, partial);
  if (place.column >= x.width) return;
  for (std::int64_t t = place.first + place.row; t < place.end; t += row_lanes) {
    Pack<T, items> pack = load_pack<items>(row_of(x, t, place.head) + place.column);
#pragma unroll
    for (int e = 0; e < items; ++e) {
      const A weight = is_identity
                           ? A(t - place.range.begin == place.column + e)
                           : std::exp(to_accumulate(pack.item[e]) - columns[e].largest) / columns[e].total;
      pack.item[e] = from_accumulate<T>(weight);
    }
    store_pack(row_of(y, t, place.head) + place.column, pack);
  }
}

template <class A>
struct Total {
  A value;
  __device__ static Total none() { return {0}; }
  __device__ void merge(const Total& other) { value += other.value; }
};

/// Sums of y dy.
template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    sum_columns(Sequences sequences, Heads<const T> y, Heads<const T> dy, Chunks chunks,
                Total<Accumulate<T>>* partial) {
  const Place place = place_of<items>(sequences, chunks);
  if (place.first >= place.end) return;
  Total<Accumulate<T>> own[items];
#pragma unroll
  for (auto& entry : own) entry = entry.none();
  if (place.column < y.width)
    for (std::int64_t t = place.first + place.row; t < place.end; t += row_lanes) {
      const Pack<T, items> weight = load_pack<items>(row_of(y, t, place.head) + place.column),
                           slope = load_pack<items>(row_of(dy, t, place.head) + place.column);
#pragma unroll
      for (int e = 0; e < items; ++e)
        own[e].value += to_accumulate(weight.item[e]) * to_accumulate(slope.item[e]);
    }
  reduce_rows<items>(own, place, y.width, partial + place.partial(chunks, y.heads, y.width));
}

template <int items, class T>
__global__ void __launch_bounds__(threads_per_block)
    write_gradients(Sequences sequences, Heads<const T> y, Heads<const T> dy, Chunks chunks,
                    const Total<Accumulate<T>>* partial, Heads<T> dx) {
  const Place place = place_of<items>(sequences, chunks);
  if (place.is_unused) return clear_unused<items>(place, chunks, dx);
  if (place.first >= place.end) return;
  const auto* columns = merge_chunks<items>(place, chunks, y.heads, y.width, partial);
  if (place.column >= y.width) return;
  for (std::int64_t t = place.first + place.row; t < place.end; t += row_lanes) {
    const Pack<T, items> weight = load_pack<items>(row_of(y, t, place.head) + place.column);
    Pack<T, items> slope = load_pack<items>(row_of(dy, t, place.head) + place.column);
#pragma unroll
    for (int e = 0; e < items; ++e)
      slope.item[e] =
          from_accumulate<T>(to_accumulate(weight.item[e]) * (to_accumulate(slope.item[e]) - columns[e].value));
    store_pack(row_of(dx, t, place.head) + place.column, slope);
  }
}

Chunks chunks_of(const Sequences& sequences) {
  const auto longest = static_cast<int>(sequences.longest);
  const int even = ((longest + most_chunks - 1) / most_chunks + row_lanes - 1) / row_lanes * row_lanes;
  const int length = std::max(least_chunk, even);
  return {length, std::max(1, (longest + length - 1) / length)};
}

/// Blocks for `sequences` sequences, the one of unused rows among them where it is counted.
dim3 grid_of(std::int64_t sequences, const Chunks& chunks, int heads, int width, int items) {
  const int columns = pack_lanes * items;
  return dim3(static_cast<unsigned>(sequences * chunks.count), static_cast<unsigned>(heads),
              static_cast<unsigned>((width + columns - 1) / columns));
}

/// Calls launch(integral constant items) for packs or single columns.
template <class T, class Launch>
void with_items(bool is_packed, const Launch& launch) {
  if (is_packed)
    launch(std::integral_constant<int, pack_items<T>>{});
  else
    launch(std::integral_constant<int, 1>{});
}

}  // namespace

template <class T>
void softmax_over_tokens(Cuda& cuda, const Sequences& sequences, Heads<const T> x, Heads<T> y) {
  if (x.tokens * x.heads * x.width == 0) return;
  const Chunks chunks = chunks_of(sequences);
  const Scratch<Exponentials<Accumulate<T>>> partial(cuda, sequences.count * chunks.count * x.heads * x.width);
  with_items<T>(rows_are_packed(x) && rows_are_packed(y), [&](auto items) {
    const auto grid = [&](std::int64_t count) { return grid_of(count, chunks, x.heads, x.width, items); };
    if (sequences.count > 0)
      measure_columns<items, T>
          <<<grid(sequences.count), threads_per_block, 0, cuda.stream>>>(sequences, x, chunks, partial.data());
    write_columns<items, T><<<grid(sequences.count + 1), threads_per_block, 0, cuda.stream>>>(
        sequences, x, chunks, partial.data(), y);
  });
  check_launch("softmax_over_tokens");
}

template <class T>
void softmax_over_tokens_backward(Cuda& cuda, const Sequences& sequences, Heads<const T> y, Heads<const T> dy,
                                  Heads<T> dx) {
  if (y.tokens * y.heads * y.width == 0) return;
  const Chunks chunks = chunks_of(sequences);
  const Scratch<Total<Accumulate<T>>> partial(cuda, sequences.count * chunks.count * y.heads * y.width);
  with_items<T>(rows_are_packed(y) && rows_are_packed(dy) && rows_are_packed(dx), [&](auto items) {
    const auto grid = [&](std::int64_t count) { return grid_of(count, chunks, y.heads, y.width, items); };
    if (sequences.count > 0)
      sum_columns<items, T><<<grid(sequences.count), threads_per_block, 0, cuda.stream>>>(
          sequences, y, dy, chunks, partial.data());
    write_gradients<items, T><<<grid(sequences.count + 1), threads_per_block, 0, cuda.stream>>>(
        sequences, y, dy, chunks, partial.data(), dx);
  });
  check_launch("softmax_over_tokens_backward");
}

#define INSTANTIATE(T)                                                                                   \
  template void softmax_over_tokens<T>(Cuda&, const Sequences&, Heads<const T>, Heads<T>);               \
  template void softmax_over_tokens_backward<T>(Cuda&, const Sequences&, Heads<const T>, Heads<const T>, \
                                                Heads<T>);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
