// Gradients of sampled Bernoulli attention. In small buckets every row meets its partners over a batch of
// hashes: queries first, for dq, then keys, for dk and dv, which weighs each pair twice but only reads rows and
// keeps all sums in registers. Crowded buckets go through dense blocks or moments. Cost tokens * hashes *
// head_width for random rows; see the contract for the bound.
#include <algorithm>
#include <span>

#include "kernels/cpu/collision_blocks.h"
#include "kernels/cpu/collision_lists.h"
#include "kernels/cpu/collision_pairs.h"
#include "kernels/cpu/lanes.h"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

// Keys that a query meets in a bucket where the exact weight would cost more than linear time.
constexpr std::int64_t window = 64;

template <class T, class Code, Isa isa>
struct GradientBuffers {
  GradientBuffers(Layout& layout, std::int64_t length, std::int64_t width, HashShape shape, int worker_count)
      : workers(worker_count),
        lists(layout, length, std::min(shape.hashes, hash_batch)),
        rows{layout.take<T>((length + 1) * 2 * width), layout.take<T>((length + 1) * 2 * width),
             layout.take<T>(length * width), layout.take<T>(length * 2 * width), width},
        areas(take_areas<SortArea<Code, isa>>(layout, workers, length, std::int64_t{1} << shape.bits)),
        blocks(take_areas<BucketBlocks<T, isa>>(layout, workers, width)),
        tiles(take_areas<PairTiles<T, isa>>(layout, workers, length, width)) {}
  void clear() const {
    for (int w = 0; w < workers; ++w) areas[w].clear(), tiles[w].clear();
  }

  int workers;
  CollisionLists<Code, isa> lists;
  GradientRows<T> rows;
  SortArea<Code, isa>* areas;
  BucketBlocks<T, isa>* blocks;
  PairTiles<T, isa>* tiles;
};

/// A (sequence, head) pair.
struct HeadOfSequence {
  std::int64_t sequence, begin, length;
  int head;
};

template <class T, class Code, Isa isa>
struct Gradient {
  using Buffers = GradientBuffers<T, Code, isa>;
  using Lists = CollisionLists<Code, isa>;
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

  void run(const HeadOfSequence& at, const Buffers& buffers) const {
    collect(at, buffers.rows);
    for (int w = 0; w < buffers.workers; ++w) buffers.blocks[w].start(buffers.rows);
    for (int hash = 0; hash < shape.hashes; hash += hash_batch) {
      const int hashes = std::min(hash_batch, shape.hashes - hash);
      share(buffers.workers, hashes, [&](int worker, std::int64_t slot) {
        const std::int64_t place = first_code(at, hash + static_cast<int>(slot));
        buffers.lists.sort(operands.q_codes + place, operands.k_codes + place, at.length,
                           static_cast<int>(slot), buffers.areas[worker]);
      });
      visit(at.length, hashes, buffers);
      for (int slot = 0; slot < hashes; ++slot) {
        share(buffers.workers, 2 * buffers.lists.crowds(slot), [&](int worker, std::int64_t item) {
          run_crowded(at, hash + slot, buffers.lists.crowd(slot, item / 2), item % 2 == 0,
                      buffers.blocks[worker]);
        });
      }
    }
    write(at, buffers.rows);
  }

  /// Place of the codes of one hash.
  std::int64_t first_code(const HeadOfSequence& at, int hash) const {
    return (static_cast<std::int64_t>(at.head) * shape.hashes + hash) * operands.q.tokens + at.begin;
  }

  /// Rows of one pair, contiguous and padded; sums become zero.
  void collect(const HeadOfSequence& at, const GradientRows<T>& rows) const {
    const std::int64_t width = rows.width;
    share_rows(at.length + 1, [&](std::int64_t begin, std::int64_t end) {
      const auto copy = [&](Heads<const T> from, T* to) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t columns = i < at.length ? from.width : 0;
          T* row = to + i * 2 * width;
          if (columns > 0) std::copy_n(from.row(at.begin + i, at.head), columns, row);
          std::fill(row + columns, row + width, T{});
        }
      };
      copy(operands.q, rows.query);
      copy(operands.dy, rows.query + width);
      copy(operands.k, rows.key);
      copy(operands.v, rows.key + width);
      const std::int64_t sums = std::min(end, at.length) - begin;
      std::fill_n(rows.q_sum + begin * width, sums * width, T{});
      std::fill_n(rows.k_sum + begin * 2 * width, sums * 2 * width, T{});
    });
  }

  /// Pairs of all rows in small buckets.
  void visit(std::int64_t length, int hashes, const Buffers& buffers) const {
    const GradientRows<T>& rows = buffers.rows;
    const SortedSide<isa>&query = buffers.lists.query, &key = buffers.lists.key;
    using Tiles = PairTiles<T, isa>;
    const bool tiled = Tiles::tiled(length, rows.width);
    const std::int64_t chunk = tiled ? Tiles::tile_rows(rows.width) : visited_chunk;
    share(buffers.workers, (length + chunk - 1) / chunk, [&](int worker, std::int64_t item) {
      PairList<T, isa, false> pairs({rows.query, rows.key, rows.q_sum, rows.width, length, exact()},
                                    tiled ? buffers.tiles + worker : nullptr);
      Lists::visit(query, key, item * chunk, std::min(length, (item + 1) * chunk), hashes, pairs);
    });
    share(buffers.workers, (length + chunk - 1) / chunk, [&](int worker, std::int64_t item) {
      PairList<T, isa, true> pairs({rows.key, rows.query, rows.k_sum, rows.width, length, exact()},
                                   tiled ? buffers.tiles + worker : nullptr);
      Lists::visit(key, query, item * chunk, std::min(length, (item + 1) * chunk), hashes, pairs);
    });
  }

  /// Pairs of a crowded bucket; where they split into work on queries and on keys, only one of them, else all
  /// for `queries`.
  void run_crowded(const HeadOfSequence& at, int hash, const BucketRows& bucket, bool queries,
                   BucketBlocks<T, isa>& blocks) const {
    constexpr std::int64_t side = BucketBlocks<T, isa>::side;
    const std::int64_t a = bucket.queries, b = bucket.keys;
    const bool moments = !exact() && 2 * a * b > operands.q.width * (a + b);
    if (moments && queries) return blocks.query_moments(bucket);
    if (!moments && !queries) return;
    blocks.sum_values(bucket);
    if (moments) return blocks.key_moments(bucket);
    if (exact() && b > window && 2 * a * b > window * (a + b)) return run_windows(at, hash, bucket, blocks);
    for (std::int64_t j = 0; j < b; j += side) {
      for (std::int64_t i = 0; i < a; i += side) {
        const BucketRows block{bucket.query + i, bucket.key + j, std::min(side, a - i), std::min(side, b - j)};
        blocks.pairs(block, exact(), T{1}, i == 0);
      }
    }
  }

  /// Consecutive blocks of queries meet consecutive windows of the bucket's keys, the first one from a random
  /// place: every pair is met with probability window / keys, and the keys are met as evenly as possible.
  void run_windows(const HeadOfSequence& at, int hash, const BucketRows& bucket,
                   BucketBlocks<T, isa>& blocks) const {
    constexpr std::int64_t block = 32;
    std::uint32_t picked[window];
    const std::int64_t keys = bucket.keys;
    blocks.add_values(bucket);
    const Code code = operands.k_codes[first_code(at, hash) + bucket.key[0]];
    const std::uint64_t element = (static_cast<std::uint64_t>(hash) << 20 | code) * 4;
    float uniform = 0;
    fill_uniform(stream, sequences.sample[at.sequence], HashDraw::block(HashDraw::window, at.head, element),
                 std::span<float>(&uniform, 1));
    std::int64_t next = std::min(keys - 1, static_cast<std::int64_t>(uniform * static_cast<float>(keys)));
    for (std::int64_t i = 0; i < bucket.queries; i += block) {
      for (std::int64_t t = 0; t < window; ++t, next = next + 1 == keys ? 0 : next + 1) {
        picked[t] = bucket.key[next];
      }
      const BucketRows met{bucket.query + i, picked, std::min(block, bucket.queries - i), window};
      blocks.pairs(met, true, static_cast<T>(keys) / static_cast<T>(window), false);
    }
  }

  /// Writes dq, dk and dv.
  void write(const HeadOfSequence& at, const GradientRows<T>& rows) const {
    const T share = T{1} / static_cast<T>(shape.hashes),
            slope = share * static_cast<T>(shape.bits) / (exact() ? T{1} : T{2});
    share_rows(at.length, [&](std::int64_t begin, std::int64_t end) {
      const auto scaled = [&](const T* sums, std::int64_t stride, T scale, Heads<T> out) {
        for (std::int64_t i = begin; i < end; ++i) {
          T* row = out.row(at.begin + i, at.head);
          for (std::int64_t c = 0; c < out.width; ++c) row[c] = scale * sums[i * stride + c];
        }
      };
      scaled(rows.q_sum, rows.width, slope, operands.dq);
      scaled(rows.k_sum, 2 * rows.width, slope, operands.dk);
      scaled(rows.k_sum + rows.width, 2 * rows.width, share, operands.dv);
    });
  }
};

}  // namespace

template <class T, class Code, Isa isa>
void collision_gradients(Cpu<isa>&, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                         const CollisionGradients<T, Code>& operands) {
  const std::int64_t width = Lanes<T, isa>::padded(operands.q.width);
  if (sequences.longest == 0 || width == 0) return;
  const Gradient<T, Code, isa> kernel{sequences, shape, stream, operands};
  const std::int64_t pairs = sequences.count * operands.q.heads;
  // Enough pairs: each worker takes whole ones, and what is shared inside runs serially. Few: all workers share
  // one after another, with one set of buffers.
  const bool many = pairs >= 2 * threads();
  const auto make = [&](Layout& layout) {
    return GradientBuffers<T, Code, isa>(layout, sequences.longest, width, shape, many ? 1 : threads());
  };
  const auto run = [&](std::int64_t pair, const GradientBuffers<T, Code, isa>& buffers) {
    kernel.run(kernel.pair(pair), buffers);
  };
  if (many) return for_each_item<isa>(pairs, make, run);
  Layout sizes(nullptr);
  make(sizes);
  Layout places(work_area<isa>(sizes.bytes()));
  const auto buffers = make(places);
  buffers.clear();
  for (std::int64_t pair = 0; pair < pairs; ++pair) run(pair, buffers);
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
