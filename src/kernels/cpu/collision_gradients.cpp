// Gradients of sampled Bernoulli attention. For each hash both sides are sorted by bucket. In small buckets
// every row meets its partners over a batch of hashes: queries first, for dq, then keys, for dk and dv, which
// weighs each pair twice but only reads rows and keeps all sums in registers. Crowded buckets go through dense
// blocks or moments. Hashes are summed in four fixed groups, so that few heads still occupy several workers and
// the bits do not depend on how many there are. Cost tokens * hashes * head_width for random rows; see the
// contract for the bound.
#include <algorithm>
#include <cstring>
#include <span>

#include "kernels/cpu/buckets.h"
#include "kernels/cpu/collision_blocks.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/work_items.h"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

constexpr int groups = 4;
// Hashes whose pairs are visited together: their orders fit the second cache at usual lengths.
constexpr int batch = 8;
// Rows whose partners are looked up at once, so that the look-ups wait for memory together.
constexpr std::int64_t visited_rows = 64;
// Harmonic mean of a bucket's queries and keys from which a dense block beats its pairs (measured).
constexpr std::int64_t crowded = 8;
// Keys that a query meets in a bucket where the exact weight would cost more than linear time.
constexpr std::int64_t window = 64;

struct CrowdedBucket : BucketRows {
  int hash;
};

/// One side's rows by bucket, for each hash of a batch: those of small buckets in order of their buckets, then,
/// from the end, those of crowded buckets.
template <class Code, Isa isa>
struct SortedSide {
  SortedSide(Arena<isa>& arena, std::int64_t most_rows)
      : length(most_rows),
        ids(arena.template take<std::uint32_t>(batch * length)),
        first(arena.template take<std::uint32_t>(batch * firsts())),
        order(arena.template take<std::uint32_t>(batch * (length + 4))),
        next(arena.template take<std::uint32_t>(firsts())) {}
  std::int64_t firsts() const { return Buckets<Code, isa>::most(length) + 1; }
  std::uint32_t* ids_of(int slot) const { return ids + slot * length; }
  std::uint32_t* first_of(int slot) const { return first + slot * firsts(); }
  std::uint32_t* order_of(int slot) const { return order + slot * (length + 4); }

  std::int64_t length;
  std::uint32_t *ids, *first, *order, *next;
};

template <class T, class Code, Isa isa>
struct GradientBuffers {
  GradientBuffers(Arena<isa>& arena, std::int64_t length, std::int64_t width, std::int64_t all_codes,
                  bool own_sums)
      : codes(all_codes),
        number(arena.template take<std::uint32_t>(all_codes)),
        picked(arena.template take<std::uint32_t>(window)),
        query(arena, length),
        key(arena, length),
        crowded_buckets(arena.template take<CrowdedBucket>(batch * (2 * length / crowded + 1))),
        rows{arena.template take<T>((length + 1) * 2 * width), arena.template take<T>((length + 1) * 2 * width),
             nullptr, nullptr, width},
        sums(own_sums ? arena.template take<T>(3 * length * width) : nullptr),
        group_sums(own_sums ? arena.template take<T>(3 * length * width) : nullptr),
        query_pairs(arena),
        key_pairs(arena),
        blocks(arena, width) {}
  void clear() { std::memset(number, 0, static_cast<std::size_t>(codes) * sizeof(*number)); }

  std::int64_t codes;
  std::uint32_t *number, *picked;
  SortedSide<Code, isa> query, key;
  CrowdedBucket* crowded_buckets;
  std::int64_t crowds = 0;
  GradientRows<T> rows;
  T *sums, *group_sums;  ///< of all groups so far, of one group: [length][width], then [length][2 * width]
  PairList<T, isa, false> query_pairs;
  PairList<T, isa, true> key_pairs;
  BucketBlocks<T, isa> blocks;
};

/// A (sequence, head) pair.
struct HeadOfSequence {
  std::int64_t sequence, begin, length;
  int head;
};

template <class T, class Code, Isa isa>
struct Gradient {
  using Buffers = GradientBuffers<T, Code, isa>;
  const Sequences& sequences;
  HashShape shape;
  const RandomStream& stream;
  const CollisionGradients<T, Code>& operands;

  bool exact() const { return operands.gradient == BernoulliGradient::exact; }

  HeadOfSequence pair(std::int64_t item) const {
    const std::int64_t sequence = item / operands.q.heads, begin = sequences.offsets[sequence];
    return {sequence, begin, sequences.offsets[sequence + 1] - begin,
            static_cast<int>(item % operands.q.heads)};
  }

  /// Rows of one pair, contiguous and padded.
  void collect(const HeadOfSequence& at, const Buffers& buffers) const {
    const std::int64_t width = buffers.rows.width;
    const auto copy = [&](Heads<const T> from, T* to) {
      for (std::int64_t i = 0; i < at.length; ++i, to += 2 * width) {
        std::copy_n(from.row(at.begin + i, at.head), from.width, to);
        std::fill(to + from.width, to + width, T{});
      }
      std::fill_n(to, width, T{});
    };
    copy(operands.q, buffers.rows.query);
    copy(operands.dy, buffers.rows.query + width);
    copy(operands.k, buffers.rows.key);
    copy(operands.v, buffers.rows.key + width);
  }

  /// sums = those of one group of hashes.
  void run_group(const HeadOfSequence& at, int group, T* sums, Buffers& buffers) const {
    const auto nowhere = static_cast<std::uint32_t>(at.length);
    const std::int64_t size = at.length * buffers.rows.width;
    std::fill_n(sums, 3 * size, T{});
    buffers.rows.q_sum = sums;
    buffers.rows.k_sum = sums + size;
    buffers.query_pairs.start(buffers.rows, nowhere, exact());
    buffers.key_pairs.start(buffers.rows, nowhere, exact());
    buffers.blocks.start(buffers.rows);
    const int last = shape.hashes * (group + 1) / groups;
    for (int hash = shape.hashes * group / groups; hash < last; hash += batch) {
      const int hashes = std::min(batch, last - hash);
      buffers.crowds = 0;
      for (int slot = 0; slot < hashes; ++slot) sort(at, hash + slot, slot, buffers);
      visit(at.length, hashes, buffers.query, buffers.key, buffers.query_pairs);
      visit(at.length, hashes, buffers.key, buffers.query, buffers.key_pairs);
      for (std::int64_t c = 0; c < buffers.crowds; ++c) run_crowded(at, buffers.crowded_buckets[c], buffers);
    }
  }

  /// Sorts both sides by the buckets of one hash.
  void sort(const HeadOfSequence& at, int hash, int slot, Buffers& buffers) const {
    const std::int64_t place =
        (static_cast<std::int64_t>(at.head) * shape.hashes + hash) * operands.q.tokens + at.begin;
    const Code* k_codes = operands.k_codes + place;
    const Buckets<Code, isa> buckets{buffers.number, buffers.codes};
    std::uint32_t *query_ids = buffers.query.ids_of(slot), *key_ids = buffers.key.ids_of(slot);
    std::uint32_t *query_next = buffers.query.next, *key_next = buffers.key.next;
    const std::uint32_t used = buckets.assign(k_codes, at.length, key_ids);
    buckets.find(operands.q_codes + place, at.length, query_ids);
    buckets.release(k_codes, at.length);
    std::fill_n(query_next, used + 1, 0u);
    std::fill_n(key_next, used + 1, 0u);
    for (std::int64_t i = 0; i < at.length; ++i) {
      ++query_next[query_ids[i]];
      ++key_next[key_ids[i]];
    }
    place_buckets(at.length, hash, slot, used, buffers);
    std::uint32_t *query_order = buffers.query.order_of(slot), *key_order = buffers.key.order_of(slot);
    for (std::int64_t i = 0; i < at.length; ++i) {
      query_order[query_next[query_ids[i]]++] = static_cast<std::uint32_t>(i);
      key_order[key_next[key_ids[i]]++] = static_cast<std::uint32_t>(i);
    }
  }

  /// Turns the counts of a hash's buckets into places; lists its crowded buckets.
  void place_buckets(std::int64_t length, int hash, int slot, std::uint32_t used, Buffers& buffers) const {
    const SortedSide<Code, isa>&query = buffers.query, &key = buffers.key;
    std::uint32_t *query_first = query.first_of(slot), *key_first = key.first_of(slot);
    std::uint32_t query_place = 0, key_place = 0;
    std::uint32_t query_end = static_cast<std::uint32_t>(length), key_end = query_end;
    query_first[0] = key_first[0] = 0;
    query_end -= query.next[0];  // queries that meet no key
    query.next[0] = query_end;
    for (std::uint32_t id = 1; id <= used; ++id) {
      const std::uint32_t queries = query.next[id], keys = key.next[id];
      query_first[id] = query.next[id] = query_place;
      key_first[id] = key.next[id] = key_place;
      if (2 * std::int64_t{queries} * keys > crowded * (std::int64_t{queries} + keys)) {
        query.next[id] = query_end -= queries;
        key.next[id] = key_end -= keys;
        buffers.crowded_buckets[buffers.crowds++] = {
            {query.order_of(slot) + query_end, key.order_of(slot) + key_end, queries, keys}, hash};
      } else {
        query_place += queries;
        key_place += keys;
      }
    }
    query_first[used + 1] = query_place;
    key_first[used + 1] = key_place;
  }

  /// Pairs of every row of one side with the rows of the other in the same small buckets.
  template <class Pairs>
  void visit(std::int64_t length, int hashes, const SortedSide<Code, isa>& own,
             const SortedSide<Code, isa>& other, Pairs& pairs) const {
    struct {
      const std::uint32_t* others;
      std::uint32_t count;
    } partners[visited_rows][batch];
    for (std::int64_t begin = 0; begin < length; begin += visited_rows) {
      const std::int64_t end = std::min(length, begin + visited_rows);
      for (int slot = 0; slot < hashes; ++slot) {
        const std::uint32_t *ids = own.ids_of(slot), *firsts = other.first_of(slot),
                            *order = other.order_of(slot);
        for (std::int64_t i = begin; i < end; ++i) {
          const std::uint32_t* first = firsts + ids[i];
          partners[i - begin][slot] = {order + first[0], first[1] - first[0]};
          __builtin_prefetch(order + first[0]);
        }
      }
      for (std::int64_t i = begin; i < end; ++i) {
        for (int slot = 0; slot < hashes; ++slot) {
          pairs.add(static_cast<std::uint32_t>(i), partners[i - begin][slot].others,
                    partners[i - begin][slot].count);
        }
      }
    }
    pairs.finish();
  }

  void run_crowded(const HeadOfSequence& at, const CrowdedBucket& bucket, Buffers& buffers) const {
    constexpr std::int64_t side = BucketBlocks<T, isa>::side;
    const std::int64_t a = bucket.queries, b = bucket.keys;
    buffers.blocks.sum_values(bucket);
    if (!exact() && 2 * a * b > operands.q.width * (a + b)) return buffers.blocks.moments(bucket);
    if (exact() && b > window && 2 * a * b > window * (a + b)) return run_windows(at, bucket, buffers);
    for (std::int64_t j = 0; j < b; j += side) {
      for (std::int64_t i = 0; i < a; i += side) {
        const BucketRows block{bucket.query + i, bucket.key + j, std::min(side, a - i), std::min(side, b - j)};
        buffers.blocks.pairs(block, exact(), T{1}, i == 0);
      }
    }
  }

  /// Consecutive blocks of queries meet consecutive windows of the bucket's keys, the first one from a random
  /// place: every pair is met with probability window / keys, and the keys are met as evenly as possible.
  void run_windows(const HeadOfSequence& at, const CrowdedBucket& bucket, Buffers& buffers) const {
    constexpr std::int64_t block = 32;
    const std::int64_t keys = bucket.keys;
    buffers.blocks.add_values(bucket);
    const std::int64_t place =
        (static_cast<std::int64_t>(at.head) * shape.hashes + bucket.hash) * operands.q.tokens + at.begin;
    const Code code = operands.k_codes[place + bucket.key[0]];
    const std::uint64_t element = (static_cast<std::uint64_t>(bucket.hash) << 20 | code) * 4;
    float uniform = 0;
    fill_uniform(stream, sequences.sample[at.sequence], HashDraw::block(HashDraw::window, at.head, element),
                 std::span<float>(&uniform, 1));
    std::int64_t next = std::min(keys - 1, static_cast<std::int64_t>(uniform * static_cast<float>(keys)));
    for (std::int64_t i = 0; i < bucket.queries; i += block) {
      for (std::int64_t t = 0; t < window; ++t, next = next + 1 == keys ? 0 : next + 1) {
        buffers.picked[t] = bucket.key[next];
      }
      const BucketRows met{bucket.query + i, buffers.picked, std::min(block, bucket.queries - i), window};
      buffers.blocks.pairs(met, true, static_cast<T>(keys) / static_cast<T>(window), false);
    }
  }

  /// Adds the sums of a group to those before it.
  void add_group(const HeadOfSequence& at, std::int64_t width, const T* group_sums, T* sums) const {
    for (std::int64_t c = 0; c < 3 * at.length * width; ++c) sums[c] += group_sums[c];
  }

  /// Writes dq, dk and dv.
  void write(const HeadOfSequence& at, std::int64_t width, const T* sums) const {
    const T share = T{1} / static_cast<T>(shape.hashes),
            slope = share * static_cast<T>(shape.bits) / (exact() ? T{1} : T{2});
    const auto scaled = [&](const T* sum, std::int64_t stride, T scale, Heads<T> out) {
      for (std::int64_t i = 0; i < at.length; ++i, sum += stride) {
        T* row = out.row(at.begin + i, at.head);
        for (std::int64_t c = 0; c < out.width; ++c) row[c] = scale * sum[c];
      }
    };
    const T* k_sum = sums + at.length * width;
    scaled(sums, width, slope, operands.dq);
    scaled(k_sum, 2 * width, slope, operands.dk);
    scaled(k_sum + width, 2 * width, share, operands.dv);
  }
};

}  // namespace

template <class T, class Code, Isa isa>
void collision_gradients(Cpu<isa>&, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                         const CollisionGradients<T, Code>& operands) {
  using Buffers = GradientBuffers<T, Code, isa>;
  const std::int64_t pairs = sequences.count * operands.q.heads,
                     width = Lanes<T, isa>::padded(operands.q.width);
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    longest = std::max<std::int64_t>(longest, sequences.offsets[s + 1] - sequences.offsets[s]);
  }
  if (longest == 0 || width == 0) return;
  const Gradient<T, Code, isa> kernel{sequences, shape, stream, operands};
  const bool many = pairs >= 2 * threads();
  const auto make = [&](Arena<isa>& arena) {
    return Buffers(arena, longest, width, std::int64_t{1} << shape.bits, many);
  };
  if (many) {
    for_each_item<isa>(pairs, make, [&](std::int64_t item, Buffers& buffers) {
      const HeadOfSequence at = kernel.pair(item);
      kernel.collect(at, buffers);
      kernel.run_group(at, 0, buffers.sums, buffers);
      for (int group = 1; group < groups; ++group) {
        kernel.run_group(at, group, buffers.group_sums, buffers);
        kernel.add_group(at, width, buffers.group_sums, buffers.sums);
      }
      kernel.write(at, width, buffers.sums);
    });
    return;
  }
  // Few pairs: the groups run at once, each into its own sums.
  const std::int64_t size = 3 * longest * width;
  const AlignedBlock<isa> block(static_cast<std::size_t>(pairs * groups * size) * sizeof(T));
  T* const sums = reinterpret_cast<T*>(block.data());
  for_each_item<isa>(pairs * groups, make, [&](std::int64_t item, Buffers& buffers) {
    const HeadOfSequence at = kernel.pair(item / groups);
    kernel.collect(at, buffers);
    kernel.run_group(at, static_cast<int>(item % groups), sums + item * size, buffers);
  });
  parallel_for(pairs, 1, [&](std::int64_t item) {
    const HeadOfSequence at = kernel.pair(item);
    T* const total = sums + item * groups * size;
    for (int group = 1; group < groups; ++group) kernel.add_group(at, width, total + group * size, total);
    kernel.write(at, width, total);
  });
}

#define TERN_INSTANTIATE(T, Code)                                                                              \
  template void collision_gradients<T, Code>(Cpu<TERN_ISA>&, const Sequences&, HashShape, const RandomStream&, \
                                             const CollisionGradients<T, Code>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
