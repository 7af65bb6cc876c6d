// Sums over colliding rows: sources sorted by code; each target adds the rows of its bucket in every hash, or
// the bucket's summed row where that holds more than a few. Deterministic: rows of a bucket are added in the
// order of the sequence, hashes in order. Cost tokens * hashes * head_width for any data.
#include "kernels/cuda/bucket_lists.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

constexpr int threads = 256;
// A bucket of more rows is summed first. Such buckets start at least this far apart plus one, so that
// place / few_rows tells them apart.
constexpr int few_rows = 16;
// Summed rows are sums of partial sums of this many rows: short chains of additions, small rounding errors.
constexpr int partial_rows = 256;

template <class T, class Code>
struct BucketSum {
  Sequences sequences;
  BucketLists<Code> sources;
  Heads<const T> value;
  const Code* codes;
  Heads<T> out;
  int hashes;
  std::int64_t summed_stride;
  Accumulate<T>* summed;  ///< [lists][summed_stride][width]

  /// Summed row of the bucket, or the part of one, that starts at this place of the list.
  __device__ __forceinline__ Accumulate<T>* summed_row(std::int64_t list, std::int64_t place) const {
    return summed + (list * summed_stride + place / few_rows) * value.width;
  }
};

/// One partial sum: its first place in the sorted order and its rows; none where no partial sum starts.
struct Part {
  std::uint32_t first = 0, count = 0;
};

/// A bucket is cut into parts of partial_rows, the last one up to twice as long.
__device__ Part part_at(Bucket bucket, std::uint32_t place) {
  const std::uint32_t parts = max(1u, bucket.count / partial_rows), inside = place - bucket.first;
  const std::uint32_t part = inside / partial_rows;
  if (bucket.count <= few_rows || inside % partial_rows != 0 || part >= parts) return {};
  return {place, part == parts - 1 ? bucket.count - inside : partial_rows};
}

/// A warp looks at 32 neighbouring places of a list and sums the parts that start there.
template <class T, class Code>
__global__ void __launch_bounds__(threads) sum_parts(BucketSum<T, Code> p, std::int64_t lists) {
  using A = Accumulate<T>;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t warps_of_list = (p.value.tokens + warp_lanes - 1) / warp_lanes;
  const std::int64_t warp = thread_index() / warp_lanes, list = warp / warps_of_list;
  if (list >= lists) return;
  const auto token = static_cast<int>(warp % warps_of_list * warp_lanes + lane);
  const int end = p.sequences.offsets[p.sequences.count];
  const SequenceRange range = token < end ? find_sequence(p.sequences, token) : SequenceRange{0, 0, 0};
  Part part;
  if (token < end) {
    const SortedRows<Code> rows = rows_of(p.sources, list, range);
    const auto place = static_cast<std::uint32_t>(token - range.begin);
    part = part_at(rows.find(rows.codes[rows.order[place]]), place);
  }
  const int head = static_cast<int>(list / p.hashes);
  for (std::uint32_t left = __ballot_sync(0xFFFFFFFFu, part.count > 0); left != 0; left &= left - 1) {
    const int from = __ffs(left) - 1;
    const int begin = __shfl_sync(0xFFFFFFFFu, range.begin, from);
    const std::int64_t first = begin + static_cast<std::int64_t>(__shfl_sync(0xFFFFFFFFu, part.first, from));
    const int count = static_cast<int>(__shfl_sync(0xFFFFFFFFu, part.count, from));
    const std::uint32_t* order = p.sources.order + list * p.sources.tokens + first;
    A* sum_row = p.summed_row(list, first);
    for (int c = lane; c < p.value.width; c += warp_lanes) {
      A sum{};
#pragma unroll 8
      for (int i = 0; i < count; ++i) {
        sum += to_accumulate(row_of(p.value, begin + static_cast<std::int64_t>(order[i]), head)[c]);
      }
      sum_row[c] = sum;
    }
  }
}

/// Adds the parts of a bucket to its first. A warp for 32 places, as above.
template <class T, class Code>
__global__ void __launch_bounds__(threads) join_parts(BucketSum<T, Code> p, std::int64_t lists) {
  using A = Accumulate<T>;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const std::int64_t places = (p.value.tokens + partial_rows - 1) / partial_rows;
  const std::int64_t warp = thread_index() / warp_lanes, list = warp / places;
  if (list >= lists) return;
  // the only bucket of two parts or more that may cover the end of this run of partial_rows places
  const auto token = static_cast<int>(min((warp % places + 1) * partial_rows, p.value.tokens)) - 1;
  if (token >= p.sequences.offsets[p.sequences.count]) return;
  const SequenceRange range = find_sequence(p.sequences, token);
  const SortedRows<Code> rows = rows_of(p.sources, list, range);
  const Bucket bucket = rows.find(rows.codes[rows.order[token - range.begin]]);
  const std::int64_t first = range.begin + static_cast<std::int64_t>(bucket.first);
  // the run that holds the start of the bucket does the work
  if (bucket.count < 2 * partial_rows || first <= token - partial_rows) return;
  for (int c = lane; c < p.value.width; c += warp_lanes) {
    A sum{};
    for (std::uint32_t part = 0; part < bucket.count / partial_rows; ++part)
      sum += p.summed_row(list, first + static_cast<std::int64_t>(part) * partial_rows)[c];
    p.summed_row(list, first)[c] = sum;
  }
}

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

/// `lanes` neighbouring lanes own a target, each of them `items` columns of every `lanes` * `items`.
template <int items, class T, class Code>
__global__ void __launch_bounds__(threads) gather(BucketSum<T, Code> p, int lanes) {
  using A = Accumulate<T>;
  constexpr int joined = JoinedBuckets::hashes;
  const std::int64_t target = thread_index() / lanes;
  const int head = static_cast<int>(target / p.out.tokens);
  if (head >= p.out.heads) return;
  const auto token = static_cast<int>(target % p.out.tokens);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const SequenceRange range = find_sequence(p.sequences, token);
  const int hashes = range.index == p.sequences.count ? 0 : p.hashes;  // rows outside sequences get zeros
  const std::int64_t first_list = static_cast<std::int64_t>(head) * p.hashes;
  const A scale = A{1} / static_cast<A>(p.hashes);
  for (int column = lane * items; column < p.out.width; column += lanes * items) {
    A sum[items] = {};
    for (int first = 0; first < hashes; first += joined) {
      const std::int64_t list = first_list + first;
      Bucket found[joined];
#pragma unroll
      for (int u = 0; u < joined; ++u) {
        found[u] = {0, 0};
        if (first + u < p.hashes) {
          found[u] = rows_of(p.sources, list + u, range).find(p.codes[(list + u) * p.out.tokens + token]);
        }
      }
      JoinedBuckets buckets;
      std::uint32_t entries = 0;
#pragma unroll
      for (int u = 0; u < joined; ++u) {
        buckets.shift[u] = found[u].first + static_cast<std::uint32_t>(u * p.out.tokens) - entries;
        entries += found[u].count <= few_rows ? found[u].count : 0;
        buckets.end[u] = entries;
      }
      const std::uint32_t* order = p.sources.order + list * p.sources.tokens + range.begin;
      const T* rows = row_of(p.value, range.begin, head) + column;
#pragma unroll 4
      for (std::uint32_t e = 0; e < entries; ++e)
        add_row(sum, rows + order[buckets.place(e)] * p.value.token_stride);
#pragma unroll
      for (int u = 0; u < joined; ++u) {
        if (found[u].count > few_rows)
          add_row(sum,
                  p.summed_row(list + u, range.begin + static_cast<std::int64_t>(found[u].first)) + column);
      }
    }
    Pack<T, items> pack;
#pragma unroll
    for (int u = 0; u < items; ++u) pack.item[u] = from_accumulate<T>(scale * sum[u]);
    store_pack(row_of(p.out, token, head) + column, pack);
  }
}

template <int items, class T, class Code>
void launch_gather(Cuda& cuda, const BucketSum<T, Code>& p) {
  const int lanes = std::min<int>(
      warp_lanes, static_cast<int>(std::bit_ceil(static_cast<unsigned>((p.out.width + items - 1) / items))));
  const std::int64_t work = p.out.tokens * p.out.heads * lanes;
  gather<items, T, Code>
      <<<static_cast<unsigned>((work + threads - 1) / threads), threads, 0, cuda.stream>>>(p, lanes);
  check_launch("bucket_sum: gather");
}

template <class T, class Code>
void sum_heads(Cuda& cuda, const BucketSum<T, Code>& p, bool packed) {
  const std::int64_t lists = static_cast<std::int64_t>(p.value.heads) * p.hashes;
  sort_into_buckets(cuda, p.sequences, p.sources, lists);
  const std::int64_t warps = lists * ((p.value.tokens + warp_lanes - 1) / warp_lanes);
  constexpr int per_block = threads / warp_lanes;
  sum_parts<T, Code>
      <<<static_cast<unsigned>((warps + per_block - 1) / per_block), threads, 0, cuda.stream>>>(p, lists);
  check_launch("bucket_sum: sum_parts");
  if (p.sequences.longest >= 2 * partial_rows) {
    const std::int64_t runs = lists * ((p.value.tokens + partial_rows - 1) / partial_rows);
    join_parts<T, Code>
        <<<static_cast<unsigned>((runs + per_block - 1) / per_block), threads, 0, cuda.stream>>>(p, lists);
    check_launch("bucket_sum: join_parts");
  }
  if (packed)
    launch_gather<pack_items<T>>(cuda, p);
  else
    launch_gather<1>(cuda, p);
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
