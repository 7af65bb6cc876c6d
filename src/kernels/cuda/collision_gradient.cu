// Gradients of sampled Bernoulli attention with respect to q and k: rows of
// both sides sorted by code; each row visits its partners in all hashes and
// keeps its gradient in registers, which needs no atomic additions. Crowded
// buckets are left to collision_crowded.cu and come in as one addend.
// Deterministic where that is. Cost: head_width for each colliding pair, see
// hashing.h for the bound.
#include "kernels/cuda/collision_gradient.cuh"
#include "kernels/cuda/partner_ids.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256;

/// Columns of one lane as they are stored: `packs` times `items` neighbours,
/// `lanes` * `items` apart.
template <int items, int packs, class T>
struct RowPacks {
  Pack<T, items> pack[packs];

  __device__ __forceinline__ void load(const T* row, int lane, int lanes, int width) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int column = (k * lanes + lane) * items;
      if (column < width) pack[k] = load_pack<items>(row + column);
    }
  }
};

/// The same columns in the type of sums.
template <int items, int packs, class T>
struct LaneColumns {
  using A = Accumulate<T>;
  A at[packs][items];

  __device__ __forceinline__ void set(const RowPacks<items, packs, T>& row) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
#pragma unroll
      for (int u = 0; u < items; ++u) at[k][u] = to_accumulate(row.pack[k].item[u]);
    }
  }
  __device__ __forceinline__ A dot(const RowPacks<items, packs, T>& row) const {
    A sum{};
#pragma unroll
    for (int k = 0; k < packs; ++k) {
#pragma unroll
      for (int u = 0; u < items; ++u) sum += at[k][u] * to_accumulate(row.pack[k].item[u]);
    }
    return sum;
  }
  __device__ __forceinline__ void add(A factor, const RowPacks<items, packs, T>& row) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
#pragma unroll
      for (int u = 0; u < items; ++u) at[k][u] += factor * to_accumulate(row.pack[k].item[u]);
    }
  }
  /// Adds up what the rows of a group of lanes hold.
  __device__ __forceinline__ void join(int lanes, int group_lanes) {
    for (int step = lanes; step < group_lanes; step *= 2) {
#pragma unroll
      for (int k = 0; k < packs; ++k) {
#pragma unroll
        for (int u = 0; u < items; ++u) at[k][u] += __shfl_xor_sync(0xFFFFFFFFu, at[k][u], step);
      }
    }
  }
};

/// The bucket that a row meets in one hash; empty where it is crowded.
template <class T, class Code>
__device__ BucketCursor partners_in(const GradientSide<T, Code>& p, const SequenceRange& range,
                                    std::int64_t list, int token) {
  const std::uint32_t code = p.own.codes[list * p.own.tokens + token];
  const SortedRows<Code> rows = rows_of(p.partner, list, range);
  const Bucket found = rows.find(code);
  if (found.count > CrowdedBuckets::few &&
      CrowdedBuckets::is_crowded(rows_of(p.own, list, range).find(code).count, found.count)) {
    return {};
  }
  return {rows.order + found.first, found.count};
}

/// A group of lanes owns a row; `lanes` of them hold a partner's row, so that a
/// group visits several at once.
template <int items, int packs, class T, class Code>
__global__ void __launch_bounds__(threads)
    visit_partners(GradientSide<T, Code> p, int lanes, int group_lanes, Accumulate<T> scale) {
  using A = Accumulate<T>;
  using Row = RowPacks<items, packs, T>;
  constexpr int batch = packs == 1 ? 2 : 1;
  __shared__ std::uint32_t shared[threads / warp_lanes * places_of_warp];
  const int thread = static_cast<int>(threadIdx.x);
  std::uint32_t* places = shared + thread / group_lanes * group_lanes * places_of_lane;
  const std::int64_t own = thread_index() / group_lanes;
  const bool is_row = own < p.out.tokens * p.out.heads;
  const int head = is_row ? static_cast<int>(own / p.out.tokens) : 0;
  const int token = is_row ? static_cast<int>(own % p.out.tokens) : 0;
  const int lane = thread % lanes, width = p.out.width;
  const SequenceRange range = find_sequence(p.sequences, token);
  const bool has_partners = is_row && range.index != p.sequences.count;
  LaneColumns<items, packs, T> sum{}, x{}, y{};
  if (has_partners) {
    Row row{};
    row.load(row_of(p.own_y, token, head), lane, lanes, width);
    y.set(row);
    row.load(row_of(p.own_x, token, head), lane, lanes, width);
    x.set(row);
  }
  const T* partner_x = row_of(p.partner_x, range.begin, head);
  const T* partner_y = row_of(p.partner_y, range.begin, head);
  const auto first_visit = static_cast<std::uint32_t>(thread % group_lanes / lanes);
  const auto visits = static_cast<std::uint32_t>(group_lanes / lanes);
  for (int first = 0; first < p.hashes; first += group_lanes) {
    const int hash = first + thread % group_lanes;
    BucketCursor cursor;
    if (has_partners && hash < p.hashes)
      cursor = partners_in(p, range, static_cast<std::int64_t>(head) * p.hashes + hash, token);
    while (__any_sync(0xFFFFFFFFu, cursor.left > 0)) {
      const std::uint32_t count = collect_places(cursor, group_lanes, places);
      const std::uint32_t most = __reduce_max_sync(0xFFFFFFFFu, count);
      for (std::uint32_t i = first_visit; i < most + first_visit; i += batch * visits) {
        Row row_x[batch]{}, row_y[batch]{};
#pragma unroll
        for (int u = 0; u < batch; ++u) {
          if (i + u * visits >= count) continue;
          const std::int64_t place = places[i + u * visits];
          row_y[u].load(partner_y + place * p.partner_y.token_stride, lane, lanes, width);
          row_x[u].load(partner_x + place * p.partner_x.token_stride, lane, lanes, width);
        }
#pragma unroll
        for (int u = 0; u < batch; ++u) {
          A gain = warp_sum(y.dot(row_y[u]), lanes);
          if (p.is_exact) gain *= exact_weight(warp_sum(x.dot(row_x[u]), lanes));
          sum.add(gain, row_x[u]);
        }
      }
    }
  }
  sum.join(lanes, group_lanes);
  if (!is_row || first_visit != 0) return;
  const bool has_sums = has_partners && p.crowded.count[p.crowded.segments] != 0;
  const A* crowded = p.sums + (static_cast<std::int64_t>(head) * p.out.tokens + token) * width;
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    const int column = (k * lanes + lane) * items;
    if (column >= width) break;
    Pack<T, items> pack;
#pragma unroll
    for (int u = 0; u < items; ++u)
      pack.item[u] = from_accumulate<T>(scale * (sum.at[k][u] + (has_sums ? crowded[column + u] : A{})));
    store_pack(row_of(p.out, token, head) + column, pack);
  }
}

template <int items, int packs, class T, class Code>
void launch_visits(Cuda& cuda, const GradientSide<T, Code>& p) {
  using A = Accumulate<T>;
  const auto needed = static_cast<unsigned>((p.out.width + items * packs - 1) / (items * packs));
  const int lanes = static_cast<int>(std::bit_ceil(needed)), group_lanes = lanes_of_group(lanes);
  const std::int64_t work = p.out.tokens * p.out.heads * group_lanes;
  const A scale = static_cast<A>(p.bits) / static_cast<A>(p.hashes) / (p.is_exact ? A{1} : A{2});
  visit_partners<items, packs, T, Code>
      <<<static_cast<unsigned>((work + threads - 1) / threads), threads, 0, cuda.stream>>>(p, lanes,
                                                                                           group_lanes, scale);
  check_launch("collision_gradient");
}

template <class T, class Code>
void run_side(Cuda& cuda, const GradientSide<T, Code>& p) {
  constexpr int items = pack_items<T>, wide = 8;
  add_crowded_buckets(cuda, p);
  if (p.packed && p.out.width <= warp_lanes * items) return launch_visits<items, 1>(cuda, p);
  if (p.packed) return launch_visits<items, wide>(cuda, p);
  if (p.out.width <= warp_lanes) return launch_visits<1, 1>(cuda, p);
  launch_visits<1, wide>(cuda, p);
}

template <class T>
bool rows_are_packed(Heads<T> x) {
  constexpr int items = pack_items<std::remove_const_t<T>>;
  return is_aligned(16, x.data) && x.width % items == 0 && x.token_stride % items == 0 &&
         x.head_stride % items == 0;
}

/// Scratch memory of both sides, for heads that are worked off together.
template <class T, class Code>
struct GradientMemory {
  static constexpr std::int64_t capacity(std::int64_t tokens) { return tokens / 8 + 1; }

  GradientMemory(Cuda& cuda, const Sequences& sequences, HashShape shape, int heads, int width)
      : segments(cuda.options.deterministic ? shape.hashes : 1),
        lists(static_cast<std::int64_t>(heads) * shape.hashes),
        query(cuda, sequences, shape.bits, lists),
        key(cuda, sequences, shape.bits, lists),
        buckets(cuda, lists * capacity(sequences.tokens)),
        count(cuda, segments + 1),
        sums(cuda, heads * sequences.tokens * width),
        crowded{buckets.data(), count.data(), segments, lists / segments * capacity(sequences.tokens)} {}

  static std::int64_t bytes_of_head(const Sequences& sequences, HashShape shape, int width) {
    return shape.hashes * (2 * BucketMemory<Code>::bytes(sequences, shape.bits) +
                           capacity(sequences.tokens) * static_cast<std::int64_t>(sizeof(CrowdedBucket))) +
           sequences.tokens * width * static_cast<std::int64_t>(sizeof(Accumulate<T>));
  }

  int segments;
  std::int64_t lists;
  BucketMemory<Code> query, key;
  Scratch<CrowdedBucket> buckets;
  Scratch<std::uint32_t> count;
  Scratch<Accumulate<T>> sums;
  CrowdedBuckets crowded;
};

template <class T>
Heads<T> heads_from(Heads<T> x, int first, int count) {
  x.data += first * x.head_stride;
  x.heads = count;
  return x;
}

}  // namespace

template <class T, class Code>
void collision_gradient(Cuda& cuda, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                        const CollisionGradient<T, Code>& operands) {
  const CollisionGradient<T, Code>& o = operands;
  if (o.q.tokens == 0 || o.q.heads == 0 || o.q.width == 0) return;
  const bool packed = rows_are_packed(o.q) && rows_are_packed(o.k) && rows_are_packed(o.v) &&
                      rows_are_packed(o.dy) && rows_are_packed(o.dq) && rows_are_packed(o.dk);
  const int most_width = 8 * warp_lanes * (packed ? pack_items<T> : 1);
  require(o.q.width <= most_width,
          "collision_gradient: heads must have at most {} columns, got {}; use "
          "more heads",
          most_width, o.q.width);
  using Memory = GradientMemory<T, Code>;
  const int group = heads_together(Memory::bytes_of_head(sequences, shape, o.q.width), o.q.heads);
  const Memory memory(cuda, sequences, shape, group, o.q.width);
  for (int head = 0; head < o.q.heads; head += group) {
    const int count = std::min(group, o.q.heads - head);
    const std::int64_t skipped = static_cast<std::int64_t>(head) * shape.hashes * o.q.tokens,
                       lists = static_cast<std::int64_t>(count) * shape.hashes;
    const auto query = memory.query.lists(o.q_codes + skipped), key = memory.key.lists(o.k_codes + skipped);
    sort_into_buckets(cuda, sequences, query, lists);
    sort_into_buckets(cuda, sequences, key, lists);
    const auto q = heads_from(o.q, head, count), k = heads_from(o.k, head, count),
               v = heads_from(o.v, head, count), dy = heads_from(o.dy, head, count);
    const bool is_exact = o.gradient == BernoulliGradient::exact;
    run_side<T, Code>(
        cuda, {sequences, query, key, q, dy, k, v, heads_from(o.dq, head, count), shape.hashes, shape.bits,
               head, is_exact, true, packed, stream, memory.sums.data(), memory.crowded});
    run_side<T, Code>(
        cuda, {sequences, key, query, k, v, q, dy, heads_from(o.dk, head, count), shape.hashes, shape.bits,
               head, is_exact, false, packed, stream, memory.sums.data(), memory.crowded});
  }
}

#define TERN_INSTANTIATE(T, Code)                                                                    \
  template void collision_gradient<T, Code>(Cuda&, const Sequences&, HashShape, const RandomStream&, \
                                            const CollisionGradient<T, Code>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
