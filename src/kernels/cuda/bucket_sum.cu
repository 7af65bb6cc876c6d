// Sums over colliding rows: sources sorted by code; each target adds the rows
// of its bucket in every hash, or the bucket's summed row where that holds more
// than a few. Deterministic: rows of a bucket are added in the order of the
// sequence, hashes in order. Cost tokens * hashes * head_width for any data.
#include "kernels/cuda/partner_ids.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

constexpr int threads = 256, sum_threads = 128;
// Chains of additions of large buckets have this length, which keeps the
// rounding error small.
constexpr int chain = 32;
constexpr std::uint32_t summed_flag = 0x80000000u, no_row = 0xFFFFFFFFu;

template <class T, class Code>
struct BucketSum {
  Sequences sequences;
  BucketLists<Code> sources;
  Heads<const T> value;
  const Code* codes;
  Heads<T> out;
  int hashes;
  std::int64_t summed_stride;
  Accumulate<T>* summed;  ///< [lists][summed_stride][width] of large buckets

  /// Number of the summed row of the large bucket that starts at this place of
  /// the list: such buckets start more than few_rows apart.
  __device__ __forceinline__ std::int64_t summed_row(std::int64_t list, std::int64_t place) const {
    return list * summed_stride + place / few_rows;
  }
};

template <int items, class A, class E>
__device__ __forceinline__ void add_row(A (&sum)[items], const E* row) {
  constexpr int step = std::min(items, pack_items<E>);
#pragma unroll
  for (int c = 0; c < items; c += step) {
    const Pack<E, step> pack = load_pack<step>(row + c);
#pragma unroll
    for (int u = 0; u < step; ++u) sum[c + u] += to_accumulate(pack.item[u]);
  }
}

/// A block sums a large bucket; `lanes` neighbours hold a row.
template <int items, class T, class Code>
__global__ void __launch_bounds__(sum_threads) sum_large(BucketSum<T, Code> p, int lanes) {
  using A = Accumulate<T>;
  __shared__ A shared[sum_threads / warp_lanes][warp_lanes * items];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % lanes, rows = sum_threads / lanes;
  const std::uint32_t count = *p.sources.large_count;
  for (std::uint32_t b = blockIdx.x; b < count; b += gridDim.x) {
    const LargeBucket bucket = p.sources.large[b];
    const SequenceRange range = sequence_range(p.sequences, bucket.sequence);
    const std::int64_t first = range.begin + static_cast<std::int64_t>(bucket.rows.first);
    const std::uint32_t* order = p.sources.order + bucket.list * p.sources.tokens + first;
    const T* from = row_of(p.value, range.begin, bucket.list / p.hashes);
    A* to = p.summed + p.summed_row(bucket.list, first) * p.value.width;
    for (int column = lane * items; column - lane * items < p.value.width; column += lanes * items) {
      A sum[items] = {};
      const int end = column < p.value.width ? static_cast<int>(bucket.rows.count) : 0;
      for (int i = thread / lanes; i < end; i += chain * rows) {
        A part[items] = {};
#pragma unroll 4
        for (int j = i; j < min(end, i + chain * rows); j += rows)
          add_row(part, from + order[j] * p.value.token_stride + column);
#pragma unroll
        for (int u = 0; u < items; ++u) sum[u] += part[u];
      }
#pragma unroll
      for (int u = 0; u < items; ++u) {
        for (int step = lanes; step < warp_lanes; step *= 2)
          sum[u] += __shfl_xor_sync(0xFFFFFFFFu, sum[u], step);
        if (thread % warp_lanes < lanes) shared[thread / warp_lanes][lane * items + u] = sum[u];
      }
      __syncthreads();
      for (int c = thread; c < lanes * items; c += sum_threads) {
        A total{};
        for (int w = 0; w < sum_threads / warp_lanes; ++w) total += shared[w][c];
        if (column - lane * items + c < p.value.width) to[column - lane * items + c] = total;
      }
      __syncthreads();
    }
  }
}

/// What a target meets in one hash: rows, or the summed row of a large bucket
/// in `summed`.
template <class T, class Code>
__device__ BucketCursor sources_in(const BucketSum<T, Code>& p, const SequenceRange& range, std::int64_t list,
                                   int token, std::uint32_t& summed) {
  const SortedRows<Code> rows = rows_of(p.sources, list, range);
  const Bucket found = rows.find(p.codes[list * p.out.tokens + token]);
  if (found.count <= few_rows) return {rows.order + found.first, found.count};
  const std::int64_t place = range.begin + static_cast<std::int64_t>(found.first);
  summed = static_cast<std::uint32_t>(p.summed_row(list, place)) | summed_flag;
  return {&summed, 1};
}

/// A group of lanes owns a target and `items` columns of every `lanes` *
/// `items`: it adds several rows at once.
template <int items, class T, class Code>
__global__ void __launch_bounds__(threads) gather(BucketSum<T, Code> p, int lanes, int group_lanes) {
  using A = Accumulate<T>;
  constexpr int batch = 4;
  __shared__ std::uint32_t shared[threads / warp_lanes * places_of_warp];
  const int thread = static_cast<int>(threadIdx.x);
  std::uint32_t* places = shared + thread / group_lanes * group_lanes * places_of_lane;
  const std::int64_t target = thread_index() / group_lanes;
  const bool is_target = target < p.out.tokens * p.out.heads;
  const int head = is_target ? static_cast<int>(target / p.out.tokens) : 0;
  const int token = is_target ? static_cast<int>(target % p.out.tokens) : 0;
  const SequenceRange range = find_sequence(p.sequences, token);
  const bool has_sources = is_target && range.index != p.sequences.count;
  const auto first_visit = static_cast<std::uint32_t>(thread % group_lanes / lanes);
  const auto visits = static_cast<std::uint32_t>(group_lanes / lanes);
  const A scale = A{1} / static_cast<A>(p.hashes);
  for (int base = 0; base < p.out.width; base += lanes * items) {
    const int column = base + thread % lanes * items;
    const bool is_column = column < p.out.width;
    const T* rows = row_of(p.value, range.begin, head) + column;
    A sum[items] = {};
    for (int first = 0; first < p.hashes; first += group_lanes) {
      const int hash = first + thread % group_lanes;
      BucketCursor cursor;
      std::uint32_t summed = 0;
      if (has_sources && hash < p.hashes)
        cursor = sources_in(p, range, static_cast<std::int64_t>(head) * p.hashes + hash, token, summed);
      const std::uint32_t count = collect_places(cursor, group_lanes, places);
      for (std::uint32_t i = first_visit; i < count; i += batch * visits) {
        std::uint32_t place[batch];
        Pack<T, items> pack[batch]{};
#pragma unroll
        for (int u = 0; u < batch; ++u) {
          place[u] = i + u * visits < count && is_column ? places[i + u * visits] : no_row;
          if (place[u] < summed_flag) pack[u] = load_pack<items>(rows + place[u] * p.value.token_stride);
        }
#pragma unroll
        for (int u = 0; u < batch; ++u) {
#pragma unroll
          for (int c = 0; c < items; ++c) sum[c] += to_accumulate(pack[u].item[c]);
          if (place[u] >= summed_flag && place[u] != no_row) {
            const std::int64_t row = place[u] & ~summed_flag;
            add_row(sum, p.summed + row * p.value.width + column);
          }
        }
      }
    }
#pragma unroll
    for (int u = 0; u < items; ++u) {
      for (int step = lanes; step < group_lanes; step *= 2)
        sum[u] += __shfl_xor_sync(0xFFFFFFFFu, sum[u], step);
    }
    if (!is_target || !is_column || first_visit != 0) continue;
    Pack<T, items> pack;
#pragma unroll
    for (int u = 0; u < items; ++u) pack.item[u] = from_accumulate<T>(scale * sum[u]);
    store_pack(row_of(p.out, token, head) + column, pack);
  }
}

template <int items, class T, class Code>
void launch_sums(Cuda& cuda, const BucketSum<T, Code>& p) {
  const auto packs = static_cast<unsigned>((p.out.width + items - 1) / items);
  const int lanes = std::min<int>(warp_lanes, static_cast<int>(std::bit_ceil(packs)));
  const auto sum_blocks = static_cast<unsigned>(cuda.multiprocessors * 16);
  sum_large<items, T, Code><<<sum_blocks, sum_threads, 0, cuda.stream>>>(p, lanes);
  check_launch("bucket_sum: sum_large");
  const int group_lanes = lanes_of_group(lanes);
  const std::int64_t work = p.out.tokens * p.out.heads * group_lanes;
  gather<items, T, Code><<<static_cast<unsigned>((work + threads - 1) / threads), threads, 0, cuda.stream>>>(
      p, lanes, group_lanes);
  check_launch("bucket_sum: gather");
}

template <class T, class Code>
void sum_heads(Cuda& cuda, const BucketSum<T, Code>& p, bool packed) {
  sort_into_buckets(cuda, p.sequences, p.sources, static_cast<std::int64_t>(p.value.heads) * p.hashes);
  if (packed)
    launch_sums<pack_items<T>>(cuda, p);
  else
    launch_sums<1>(cuda, p);
}

template <class T>
bool rows_are_packed(Heads<T> x) {
  constexpr int items = pack_items<std::remove_const_t<T>>;
  return is_aligned(16, x.data) && x.width % items == 0 && x.token_stride % items == 0 &&
         x.head_stride % items == 0;
}

}  // namespace

template <class T, class Code>
void bucket_sum(Cuda& cuda, const Sequences& sequences, HashShape shape, const Code* source_codes,
                Heads<const T> value, const Code* codes, Heads<T> out) {
  if (out.tokens == 0 || out.heads == 0 || out.width == 0) return;
  const std::int64_t tokens = out.tokens, summed_stride = tokens / few_rows + 1;
  const std::int64_t summed_items = shape.hashes * summed_stride * value.width;  // of one head
  require(shape.hashes * summed_stride < std::int64_t{1} << 31,
          "bucket_sum: tokens * hashes must lie below 2^35, got {} * {}; use "
          "smaller batches",
          tokens, shape.hashes);
  const int group = heads_together(shape.hashes * BucketMemory<Code>::bytes(sequences, shape.bits) +
                                       summed_items * static_cast<std::int64_t>(sizeof(Accumulate<T>)),
                                   out.heads);
  const BucketMemory<Code> memory(cuda, sequences, shape.bits, static_cast<std::int64_t>(group) * shape.hashes);
  const Scratch<Accumulate<T>> summed(cuda, group * summed_items);
  const bool packed = rows_are_packed(value) && rows_are_packed(out);
  for (int head = 0; head < out.heads; head += group) {
    const std::int64_t skipped = static_cast<std::int64_t>(head) * shape.hashes * tokens;
    Heads<const T> from = value;
    Heads<T> to = out;
    from.data += head * value.head_stride;
    to.data += head * out.head_stride;
    from.heads = to.heads = std::min(group, out.heads - head);
    sum_heads<T, Code>(cuda,
                       {sequences, memory.lists(source_codes + skipped), from, codes + skipped, to,
                        shape.hashes, summed_stride, summed.data()},
                       packed);
  }
}

#define TERN_INSTANTIATE(T, Code)                                                                    \
  template void bucket_sum<T, Code>(Cuda&, const Sequences&, HashShape, const Code*, Heads<const T>, \
                                    const Code*, Heads<T>);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
