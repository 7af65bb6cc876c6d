// Gradients of sampled Bernoulli attention with respect to q and k. For each hash: number the buckets that hold
// a key and sort the keys by bucket; queries of small buckets append their pairs to a list; crowded buckets go
// through dense blocks or moments. Hashes are summed in four fixed groups, so that few heads still occupy
// several workers and the bits do not depend on how many there are.
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
// Harmonic mean of a bucket's queries and keys from which a dense block beats a list of its pairs (measured).
constexpr std::int64_t crowded = 8;
// Keys that a query meets in a bucket where the exact weight would cost more than linear time.
constexpr std::int64_t window = 64;

struct CrowdedBucket {
  std::uint32_t id, first_query, queries, first_key, keys;
};

/// Keys of a small bucket: `count` of them from `first` in bucket order; none for crowded buckets.
struct SmallBucket {
  std::uint32_t first, count;
};

template <class T, class Code, Isa isa>
struct GradientBuffers {
  GradientBuffers(Arena<isa>& arena, std::int64_t length, std::int64_t width, std::int64_t all_codes)
      : codes(all_codes),
        number(arena.template take<std::uint32_t>(all_codes)),
        query_ids(arena.template take<std::uint32_t>(length)),
        key_ids(arena.template take<std::uint32_t>(length)),
        query_count(arena.template take<std::uint32_t>(Buckets<Code, isa>::most(length))),
        key_next(arena.template take<std::uint32_t>(Buckets<Code, isa>::most(length))),
        query_order(arena.template take<std::uint32_t>(Buckets<Code, isa>::most(length))),
        key_order(arena.template take<std::uint32_t>(length + 4)),
        picked(arena.template take<std::uint32_t>(window)),
        small(arena.template take<SmallBucket>(Buckets<Code, isa>::most(length))),
        crowded_buckets(arena.template take<CrowdedBucket>(length)),
        rows{arena.template take<T>((length + 1) * 2 * width), arena.template take<T>((length + 1) * 2 * width),
             arena.template take<T>(length * width), arena.template take<T>(length * width), width},
        pairs(arena),
        blocks(arena, width) {}
  void clear() { std::memset(number, 0, static_cast<std::size_t>(codes) * sizeof(*number)); }

  std::int64_t codes;
  std::uint32_t *number, *query_ids, *key_ids, *query_count, *key_next, *query_order, *key_order, *picked;
  SmallBucket* small;
  CrowdedBucket* crowded_buckets;
  GradientRows<T> rows;
  PairList<T, isa> pairs;
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
  const CollisionGradient<T, Code>& operands;

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

  /// Sums of one group of hashes into q_sum and k_sum.
  void run_group(const HeadOfSequence& at, int group, Buffers& buffers) const {
    std::fill_n(buffers.rows.q_sum, at.length * buffers.rows.width, T{});
    std::fill_n(buffers.rows.k_sum, at.length * buffers.rows.width, T{});
    buffers.pairs.start(buffers.rows, static_cast<std::uint32_t>(at.length), exact());
    buffers.blocks.start(buffers.rows);
    for (int r = shape.hashes * group / groups; r < shape.hashes * (group + 1) / groups; ++r)
      run_hash(at, r, buffers);
  }

  void run_hash(const HeadOfSequence& at, int hash, Buffers& buffers) const {
    const std::int64_t place =
        (static_cast<std::int64_t>(at.head) * shape.hashes + hash) * operands.q.tokens + at.begin;
    const Code* k_codes = operands.k_codes + place;
    const Buckets<Code, isa> buckets{buffers.number, buffers.codes};
    const std::uint32_t used = buckets.assign(k_codes, at.length, buffers.key_ids);
    buckets.find(operands.q_codes + place, at.length, buffers.query_ids);
    buckets.release(k_codes, at.length);
    std::fill_n(buffers.query_count, used + 1, 0u);
    std::fill_n(buffers.key_next, used + 1, 0u);
    for (std::int64_t i = 0; i < at.length; ++i) {
      ++buffers.query_count[buffers.query_ids[i]];
      ++buffers.key_next[buffers.key_ids[i]];
    }
    const std::int64_t crowds = classify(used, buffers);
    for (std::int64_t j = 0; j < at.length; ++j) {
      buffers.key_order[buffers.key_next[buffers.key_ids[j]]++] = static_cast<std::uint32_t>(j);
    }
    for (std::int64_t i = 0; i < at.length; ++i) {
      const SmallBucket bucket = buffers.small[buffers.query_ids[i]];
      buffers.pairs.add(static_cast<std::uint32_t>(i), buffers.key_order + bucket.first, bucket.count);
    }
    buffers.pairs.flush();
    if (crowds == 0) return;
    sort_crowded_queries(at.length, used, crowds, buffers);
    for (std::int64_t c = 0; c < crowds; ++c)
      run_crowded(at, hash, k_codes, buffers.crowded_buckets[c], buffers);
  }

  /// Turns key counts into first places and separates crowded buckets, whose number it returns.
  std::int64_t classify(std::uint32_t used, Buffers& buffers) const {
    std::int64_t crowds = 0;
    std::uint32_t first = 0, first_query = 0;
    buffers.small[0] = {0, 0};
    for (std::uint32_t id = 1; id <= used; ++id) {
      const std::uint32_t keys = buffers.key_next[id], queries = buffers.query_count[id];
      const bool is_crowded = 2 * std::int64_t{queries} * keys > crowded * (std::int64_t{queries} + keys);
      buffers.small[id] = {first, is_crowded ? 0 : keys};
      if (is_crowded) {
        buffers.crowded_buckets[crowds++] = {id, first_query, queries, first, keys};
        first_query += queries;
      }
      buffers.key_next[id] = first;
      first += keys;
    }
    return crowds;
  }

  /// query_order = the queries of crowded buckets by bucket; query_count becomes the next place of each bucket.
  void sort_crowded_queries(std::int64_t length, std::uint32_t used, std::int64_t crowds,
                            Buffers& buffers) const {
    const auto nowhere = static_cast<std::uint32_t>(length);  // a place that the other queries overwrite
    std::fill_n(buffers.query_count, used + 1, nowhere);
    for (std::int64_t c = 0; c < crowds; ++c) {
      buffers.query_count[buffers.crowded_buckets[c].id] = buffers.crowded_buckets[c].first_query;
    }
    for (std::int64_t i = 0; i < length; ++i) {
      std::uint32_t& next = buffers.query_count[buffers.query_ids[i]];
      buffers.query_order[next] = static_cast<std::uint32_t>(i);
      next += next != nowhere;
    }
  }

  void run_crowded(const HeadOfSequence& at, int hash, const Code* k_codes, const CrowdedBucket& bucket,
                   Buffers& buffers) const {
    constexpr std::int64_t side = BucketBlocks<T, isa>::side;
    const std::uint32_t* queries = buffers.query_order + bucket.first_query;
    const std::uint32_t* keys = buffers.key_order + bucket.first_key;
    const std::int64_t a = bucket.queries, b = bucket.keys;
    if (!exact() && 2 * a * b > operands.q.width * (a + b)) return buffers.blocks.moments(queries, a, keys, b);
    if (exact() && b > window && 2 * a * b > window * (a + b)) {
      return run_windows(at, hash, k_codes[keys[0]], bucket, buffers);
    }
    for (std::int64_t j = 0; j < b; j += side) {
      for (std::int64_t i = 0; i < a; i += side) {
        buffers.blocks.pairs(queries + i, std::min(side, a - i), keys + j, std::min(side, b - j), exact(),
                             T{1});
      }
    }
  }

  /// Consecutive blocks of queries meet consecutive windows of the bucket's keys, the first one from a random
  /// place: every pair is met with probability window / keys, and the keys are met as evenly as possible.
  void run_windows(const HeadOfSequence& at, int hash, Code code, const CrowdedBucket& bucket,
                   Buffers& buffers) const {
    constexpr std::int64_t block = 32;
    const std::int64_t keys = bucket.keys;
    const std::uint64_t element = (static_cast<std::uint64_t>(hash) << 20 | code) * 4;
    float uniform = 0;
    fill_uniform(stream, sequences.sample[at.sequence], HashDraw::block(HashDraw::window, at.head, element),
                 std::span<float>(&uniform, 1));
    std::int64_t next = std::min(keys - 1, static_cast<std::int64_t>(uniform * static_cast<float>(keys)));
    for (std::int64_t i = 0; i < bucket.queries; i += block) {
      for (std::int64_t t = 0; t < window; ++t, next = next + 1 == keys ? 0 : next + 1) {
        buffers.picked[t] = buffers.key_order[bucket.first_key + next];
      }
      buffers.blocks.pairs(buffers.query_order + bucket.first_query + i, std::min(block, bucket.queries - i),
                           buffers.picked, window, true, static_cast<T>(keys) / static_cast<T>(window));
    }
  }

  /// Writes (group 0) or adds the sums of a group to dq and dk.
  void add_group(const HeadOfSequence& at, int group, const T* q_sum, const T* k_sum,
                 std::int64_t width) const {
    const T scale = static_cast<T>(shape.bits) / static_cast<T>(shape.hashes) / (exact() ? T{1} : T{2});
    const auto add = [&](const T* sum, Heads<T> out) {
      for (std::int64_t i = 0; i < at.length; ++i, sum += width) {
        T* row = out.row(at.begin + i, at.head);
        for (std::int64_t c = 0; c < out.width; ++c) row[c] = (group == 0 ? T{} : row[c]) + scale * sum[c];
      }
    };
    add(q_sum, operands.dq);
    add(k_sum, operands.dk);
  }
};

}  // namespace

template <class T, class Code, Isa isa>
void collision_gradient(Cpu<isa>&, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                        const CollisionGradient<T, Code>& operands) {
  using Buffers = GradientBuffers<T, Code, isa>;
  const std::int64_t pairs = sequences.count * operands.q.heads,
                     width = Lanes<T, isa>::padded(operands.q.width);
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    longest = std::max<std::int64_t>(longest, sequences.offsets[s + 1] - sequences.offsets[s]);
  }
  if (longest == 0 || width == 0) return;
  const Gradient<T, Code, isa> kernel{sequences, shape, stream, operands};
  const auto make = [&](Arena<isa>& arena) {
    return Buffers(arena, longest, width, std::int64_t{1} << shape.bits);
  };
  if (pairs >= 2 * threads()) {
    for_each_item<isa>(pairs, make, [&](std::int64_t item, Buffers& buffers) {
      const HeadOfSequence at = kernel.pair(item);
      kernel.collect(at, buffers);
      for (int group = 0; group < groups; ++group) {
        kernel.run_group(at, group, buffers);
        kernel.add_group(at, group, buffers.rows.q_sum, buffers.rows.k_sum, width);
      }
    });
    return;
  }
  // Few pairs: the groups run at once, each into its own sums.
  const std::int64_t size = longest * width;
  const AlignedBlock<isa> block(static_cast<std::size_t>(2 * pairs * groups * size) * sizeof(T));
  T* const sums = reinterpret_cast<T*>(block.data());
  for_each_item<isa>(pairs * groups, make, [&](std::int64_t item, Buffers& buffers) {
    const HeadOfSequence at = kernel.pair(item / groups);
    buffers.rows.q_sum = sums + 2 * item * size;
    buffers.rows.k_sum = buffers.rows.q_sum + size;
    kernel.collect(at, buffers);
    kernel.run_group(at, static_cast<int>(item % groups), buffers);
  });
  parallel_for(pairs, 1, [&](std::int64_t item) {
    for (int group = 0; group < groups; ++group) {
      const T* q_sum = sums + 2 * (item * groups + group) * size;
      kernel.add_group(kernel.pair(item), group, q_sum, q_sum + size, width);
    }
  });
}

#define TERN_INSTANTIATE(T, Code)                                                                             \
  template void collision_gradient<T, Code>(Cpu<TERN_ISA>&, const Sequences&, HashShape, const RandomStream&, \
                                            const CollisionGradient<T, Code>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
