// Gradients of sampled Bernoulli attention with respect to q and k: rows of both sides sorted by code; each row
// visits its partners in all hashes and keeps its gradient in registers, which needs no atomic additions.
// Crowded buckets are left to collision_crowded.cu and come in as one addend. Deterministic where that is.
// Cost: head_width for each colliding pair, see hashing.h for the bound.
#include "kernels/cuda/collision_gradient.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256;

/// Columns of one lane: `packs` times `items` neighbours, `lanes` * `items` apart.
template <int items, int packs, class A>
struct LaneColumns {
  A at[packs][items];

  template <class T>
  __device__ __forceinline__ void load(const T* row, int lane, int lanes, int width) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int column = (k * lanes + lane) * items;
      Pack<T, items> pack{};
      if (column < width) pack = load_pack<items>(row + column);
#pragma unroll
      for (int u = 0; u < items; ++u) at[k][u] = to_accumulate(pack.item[u]);
    }
  }
  __device__ __forceinline__ A dot(const LaneColumns& other) const {
    A sum{};
#pragma unroll
    for (int k = 0; k < packs; ++k) {
#pragma unroll
      for (int u = 0; u < items; ++u) sum += at[k][u] * other.at[k][u];
    }
    return sum;
  }
  __device__ __forceinline__ void add(A factor, const LaneColumns& other) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
#pragma unroll
      for (int u = 0; u < items; ++u) at[k][u] += factor * other.at[k][u];
    }
  }
};

/// Partners of a row in a few hashes from `first` on, without crowded buckets.
template <class T, class Code>
__device__ JoinedBuckets partners_of(const GradientSide<T, Code>& p, const SequenceRange& range,
                                     std::int64_t first_list, int first, int token) {
  JoinedBuckets buckets;
  Bucket found[JoinedBuckets::hashes];
  std::uint32_t code[JoinedBuckets::hashes];
#pragma unroll
  for (int u = 0; u < JoinedBuckets::hashes; ++u) {
    found[u] = {0, 0};
    if (first + u >= p.hashes) continue;
    const std::int64_t list = first_list + first + u;
    code[u] = p.own.codes[list * p.own.tokens + token];
    found[u] = rows_of(p.partner, list, range).find(code[u]);
  }
  std::uint32_t entries = 0;
#pragma unroll
  for (int u = 0; u < JoinedBuckets::hashes; ++u) {
    if (found[u].count > CrowdedBuckets::few) {
      const std::uint32_t own = rows_of(p.own, first_list + first + u, range).find(code[u]).count;
      if (CrowdedBuckets::is_crowded(own, found[u].count)) found[u].count = 0;
    }
    buckets.shift[u] = found[u].first + static_cast<std::uint32_t>(u * p.own.tokens) - entries;
    entries += found[u].count;
    buckets.end[u] = entries;
  }
  return buckets;
}

/// `lanes` neighbouring lanes own a row.
template <int items, int packs, class T, class Code>
__global__ void __launch_bounds__(threads)
    visit_partners(GradientSide<T, Code> p, int lanes, Accumulate<T> scale) {
  using A = Accumulate<T>;
  using Columns = LaneColumns<items, packs, A>;
  const std::int64_t own = thread_index() / lanes;
  const bool is_row = own < p.out.tokens * p.out.heads;
  const int head = is_row ? static_cast<int>(own / p.out.tokens) : 0;
  const int token = is_row ? static_cast<int>(own % p.out.tokens) : 0;
  const int lane = static_cast<int>(threadIdx.x) % lanes, width = p.out.width;
  const SequenceRange range = find_sequence(p.sequences, token);
  const bool has_partners = is_row && range.index != p.sequences.count;
  Columns sum{}, x{}, y{};
  if (has_partners) {
    y.load(row_of(p.own_y, token, head), lane, lanes, width);
    if (p.is_exact) x.load(row_of(p.own_x, token, head), lane, lanes, width);
  }
  const std::int64_t first_list = static_cast<std::int64_t>(head) * p.hashes;
  for (int first = 0; first < p.hashes; first += JoinedBuckets::hashes) {
    JoinedBuckets buckets{};
    if (has_partners) buckets = partners_of(p, range, first_list, first, token);
    const std::uint32_t* order = p.partner.order + (first_list + first) * p.partner.tokens + range.begin;
    const std::uint32_t most = __reduce_max_sync(0xFFFFFFFFu, buckets.count());
    std::uint32_t next = buckets.count() > 0 ? order[buckets.place(0)] : 0;
#pragma unroll 2
    for (std::uint32_t e = 0; e < most; ++e) {
      const bool is_entry = e < buckets.count();
      Columns partner_x{}, partner_y{};
      if (is_entry) {
        const std::int64_t partner = range.begin + static_cast<std::int64_t>(next);
        next = order[buckets.place(min(e + 1, buckets.count() - 1))];
        partner_y.load(row_of(p.partner_y, partner, head), lane, lanes, width);
        partner_x.load(row_of(p.partner_x, partner, head), lane, lanes, width);
      }
      A gain = warp_sum(y.dot(partner_y), lanes);
      if (p.is_exact) gain *= exact_weight(warp_sum(x.dot(partner_x), lanes));
      sum.add(gain, partner_x);
    }
  }
  if (!is_row) return;
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
  const int lanes = static_cast<int>(std::bit_ceil(needed));
  const std::int64_t work = p.out.tokens * p.out.heads * lanes;
  const A scale = static_cast<A>(p.bits) / static_cast<A>(p.hashes) / (p.is_exact ? A{1} : A{2});
  visit_partners<items, packs, T, Code>
      <<<static_cast<unsigned>((work + threads - 1) / threads), threads, 0, cuda.stream>>>(p, lanes, scale);
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
          "collision_gradient: heads must have at most {} columns, got {}; use more heads", most_width,
          o.q.width);
  require(shape.hashes * o.q.tokens < std::int64_t{1} << 32,
          "collision_gradient: tokens * hashes must lie below 2^32, got {} * {}; use smaller batches",
          o.q.tokens, shape.hashes);
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
