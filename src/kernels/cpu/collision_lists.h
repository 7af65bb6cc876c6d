// Which rows collide: for each hash of a batch, both sides in order of their buckets, and for every row where
// its partners stand in the other side's order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "kernels/cpu/buckets.h"
#include "kernels/cpu/work_items.h"

namespace tern::kernels {

// Harmonic mean of a bucket's queries and keys from which it counts as crowded: working on it as a whole beats
// its pairs (measured).
constexpr std::int64_t crowded_rows = 8;
// Hashes whose pairs are visited together, while the row that they share and its sums stay in registers.
constexpr int hash_batch = 32;
// Rows that one worker visits at a time.
constexpr std::int64_t visited_chunk = 1024;

/// Tokens of the queries and keys of a bucket, or of a part of one.
struct BucketRows {
  const std::uint32_t *query, *key;
  std::int64_t queries, keys;
};

/// Rows of one side in a bucket: a place in its order and their number; none of crowded buckets.
struct Bucket {
  std::uint32_t first, count;
};

/// A row's partners in one hash: up to three rows of the other side, else others[0] is their place in its
/// order.
struct Partners {
  static constexpr std::uint32_t most = 3;
  std::uint32_t count, others[most];
};

/// One side's rows, for each hash by bucket: those of small buckets, then, from the end, those of crowded ones.
template <Isa isa>
struct SortedSide {
  SortedSide(Layout& layout, std::int64_t most_rows, int hashes)
      : length(most_rows),
        all_orders(layout.take<std::uint32_t>(hashes * (length + 4))),
        all_partners(layout.take<Partners>(hashes * length)) {}
  std::uint32_t* order(int slot) const { return all_orders + slot * (length + 4); }
  Partners* partners(int slot) const { return all_partners + slot * length; }

  std::int64_t length;
  std::uint32_t* all_orders;
  Partners* all_partners;
};

/// What a worker needs to sort one hash.
template <class Code, Isa isa>
struct SortArea {
  SortArea(Layout& layout, std::int64_t length, std::int64_t all_codes)
      : buckets{layout.take<std::uint32_t>(all_codes), all_codes} {
    const std::int64_t most = Buckets<Code, isa>::most(length);
    for (std::uint32_t** ids : {&query_ids, &key_ids}) *ids = layout.take<std::uint32_t>(length);
    for (std::uint32_t** next : {&query_next, &key_next}) *next = layout.take<std::uint32_t>(most);
    for (Bucket** found : {&queries, &keys}) *found = layout.take<Bucket>(most);
  }
  void clear() const {
    std::memset(buckets.number, 0, static_cast<std::size_t>(buckets.codes) * sizeof(*buckets.number));
  }

  Buckets<Code, isa> buckets;
  std::uint32_t *query_ids, *key_ids;
  std::uint32_t *query_next, *key_next;  ///< by bucket: number of rows, then the next one's place in the order
  Bucket *queries, *keys;                ///< by bucket: what the other side's rows meet there
};

/// The hashes of one batch; `sort` may run for several of them at once.
template <class Code, Isa isa>
class CollisionLists {
 public:
  CollisionLists(Layout& layout, std::int64_t length, int hashes)
      : query(layout, length, hashes),
        key(layout, length, hashes),
        most_crowds_(2 * length / crowded_rows + 1),
        crowds_(layout.take<BucketRows>(hashes * most_crowds_)),
        crowd_count_(layout.take<std::int64_t>(hashes)) {}

  /// Sorts both sides by the codes of one hash.
  void sort(const Code* q_codes, const Code* k_codes, std::int64_t length, int slot,
            const SortArea<Code, isa>& area) const {
    const std::uint32_t used = area.buckets.assign(k_codes, length, area.key_ids);
    area.buckets.find(q_codes, length, area.query_ids);
    area.buckets.release(k_codes, length);
    count(area.query_ids, length, used, area.query_next);
    count(area.key_ids, length, used, area.key_next);
    place_buckets(length, slot, used, area);
    place_rows(area.query_ids, length, area.query_next, query.order(slot));
    place_rows(area.key_ids, length, area.key_next, key.order(slot));
    list_partners(area.query_ids, length, slot, area.keys, key.order(slot), query);
    list_partners(area.key_ids, length, slot, area.queries, query.order(slot), key);
  }

  std::int64_t crowds(int slot) const { return crowd_count_[slot]; }
  const BucketRows& crowd(int slot, std::int64_t c) const { return crowds_[slot * most_crowds_ + c]; }

  /// Adds the rows begin .. end - 1 of one side with their partners in every hash to `pairs` and works them
  /// off.
  template <class Pairs>
  static void visit(const SortedSide<isa>& own, const SortedSide<isa>& other, std::int64_t begin,
                    std::int64_t end, int hashes, Pairs& pairs) {
    // Rows whose lists are on their way to the cache while those before them are read.
    constexpr std::int64_t block = 64 / sizeof(Partners);
    for (std::int64_t first = begin; first < end; first += block) {
      const std::int64_t last = std::min(end, first + block), later = std::min(end, last + block);
      for (int slot = 0; slot < hashes; ++slot) {
        const Partners* partners = own.partners(slot);
        const std::uint32_t* order = other.order(slot);
        __builtin_prefetch(partners + last + 3 * block);
        for (std::int64_t i = last; i < later; ++i) __builtin_prefetch(list(partners[i], order));
      }
      for (std::int64_t i = first; i < last; ++i) {
        pairs.start_row(static_cast<std::uint32_t>(i));
        for (int slot = 0; slot < hashes; ++slot) {
          const Partners& partners = own.partners(slot)[i];
          if (partners.count <= Partners::most) [[likely]] {
            pairs.append(partners);
          } else {
            pairs.append_many(other.order(slot) + partners.others[0], partners.count);
          }
        }
      }
    }
    pairs.finish();
  }

  SortedSide<isa> query, key;

 private:
  static const std::uint32_t* list(const Partners& partners, const std::uint32_t* order) {
    return partners.count <= Partners::most ? partners.others : order + partners.others[0];
  }

  static void count(const std::uint32_t* ids, std::int64_t length, std::uint32_t used, std::uint32_t* counts) {
    std::fill_n(counts, used + 1, 0u);
    for (std::int64_t i = 0; i < length; ++i) ++counts[ids[i]];
  }

  static void place_rows(const std::uint32_t* ids, std::int64_t length, std::uint32_t* next,
                         std::uint32_t* order) {
    for (std::int64_t i = 0; i < length; ++i) order[next[ids[i]]++] = static_cast<std::uint32_t>(i);
  }

  static void list_partners(const std::uint32_t* ids, std::int64_t length, int slot, const Bucket* buckets,
                            const std::uint32_t* order, const SortedSide<isa>& own) {
    for (std::int64_t i = 0; i < length; ++i) {
      const Bucket bucket = buckets[ids[i]];
      const std::uint32_t* others = order + bucket.first;
      own.partners(slot)[i] = {
          bucket.count, {bucket.count <= Partners::most ? others[0] : bucket.first, others[1], others[2]}};
    }
  }

  /// Turns the counts of a hash's buckets into places; lists its crowded buckets.
  void place_buckets(std::int64_t length, int slot, std::uint32_t used, const SortArea<Code, isa>& area) const {
    std::uint32_t query_place = 0, key_place = 0;
    std::uint32_t query_end = static_cast<std::uint32_t>(length), key_end = query_end;
    std::int64_t crowds = 0;
    area.keys[0] = {0, 0};
    query_end -= area.query_next[0];  // queries that meet no key
    area.query_next[0] = query_end;
    for (std::uint32_t id = 1; id <= used; ++id) {
      const std::uint32_t queries = area.query_next[id], keys = area.key_next[id];
      if (2 * std::int64_t{queries} * keys > crowded_rows * (std::int64_t{queries} + keys)) [[unlikely]] {
        area.query_next[id] = query_end -= queries;
        area.key_next[id] = key_end -= keys;
        area.queries[id] = area.keys[id] = {0, 0};
        crowds_[slot * most_crowds_ + crowds++] = {query.order(slot) + query_end, key.order(slot) + key_end,
                                                   queries, keys};
      } else {
        area.query_next[id] = query_place;
        area.key_next[id] = key_place;
        area.queries[id] = {query_place, queries};
        area.keys[id] = {key_place, keys};
        query_place += queries;
        key_place += keys;
      }
    }
    crowd_count_[slot] = crowds;
  }

  std::int64_t most_crowds_;
  BucketRows* crowds_;
  std::int64_t* crowd_count_;
};

/// One area for each of the workers that share a pair.
template <class Area, class... Args>
Area* take_areas(Layout& layout, int workers, const Args&... args) {
  Area* const areas = layout.take<Area>(workers);
  for (int w = 0; w < workers; ++w) {
    const Area area(layout, args...);
    if (areas != nullptr) std::construct_at(areas + w, area);
  }
  return areas;
}

/// Runs body(worker, item) for item in [0, items), each worker with its own area.
template <class Body>
void share(int workers, std::int64_t items, const Body& body) {
  parallel_for(std::min<std::int64_t>(workers, items), 1, [&](std::int64_t worker) {
    for (std::int64_t item = worker; item < items; item += workers) body(static_cast<int>(worker), item);
  });
}

/// Runs body(begin, end) for parts of [0, rows).
template <class Body>
void share_rows(std::int64_t rows, const Body& body) {
  parallel_for((rows + visited_chunk - 1) / visited_chunk, 1, [&](std::int64_t chunk) {
    body(chunk * visited_chunk, std::min(rows, (chunk + 1) * visited_chunk));
  });
}

}  // namespace tern::kernels
