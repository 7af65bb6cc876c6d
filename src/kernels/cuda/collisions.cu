// Finds collisions: both sides are sorted by code, each own row gets a record of its bucket of partners for
// each hash (collision_match_*.cu), and the records of all hashes are linked to one list a row
// (collision_link.cu). Deterministic. Cost tokens * hashes for any data.
#include "kernels/cuda/collisions.cuh"

namespace tern::kernels {
namespace {

std::int64_t most_crowded(const Sequences& sequences) { return sequences.tokens / (few_rows + 1); }

/// A kernel, because cudaMemsetAsync leaves a device idle before and after it for longer than this takes.
__global__ void clear_counts(std::uint32_t* counts, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) counts[i] = 0;
}

}  // namespace

template <class Id>
CollisionFinder<Id>::CollisionFinder(Cuda& cuda, const Sequences& sequences, int hashes, int bits, int heads,
                                     bool both, bool in_fixed_order)
    : cuda_(cuda),
      sequences_(sequences),
      hashes_(hashes),
      bits_(bits),
      heads_(heads),
      segments_(in_fixed_order ? hashes : 1),
      both_(both),
      few_(cuda, heads * sequences.tokens),
      crowded_(cuda, heads * sequences.tokens),
      entries_(cuda, heads * link_capacity<Id>(sequences.tokens, hashes)),
      buckets_(cuda, (both ? 2 : 1) * heads * hashes * most_crowded(sequences)),
      counts_(cuda, 2 * counts_of_direction()),
      k_order_(cuda, heads * hashes * sequences.tokens),
      q_order_(cuda, both ? heads * hashes * sequences.tokens : 0) {
  require(link_capacity<Id>(sequences.tokens, hashes) < std::int64_t{1} << 31,
          "collisions: tokens * hashes must stay below 2^28, got {} * {}; split the batch", sequences.tokens,
          hashes);
}

template <class Id>
std::int64_t CollisionFinder<Id>::bytes_of_head(const Sequences& sequences, int hashes, bool both) {
  const std::int64_t tokens = sequences.tokens, rows = tokens * hashes, sides = both ? 2 : 1;
  const auto lists = static_cast<std::int64_t>(2 * tokens * sizeof(EntryRange) +
                                               link_capacity<Id>(tokens, hashes) * sizeof(std::uint32_t));
  const auto of_side = static_cast<std::int64_t>(hashes * most_crowded(sequences) * sizeof(CrowdedBucket) +
                                                 rows * (sizeof(Id) + sizeof(std::uint32_t)));
  return lists + sides * of_side;
}

template <class Id>
void CollisionFinder<Id>::link(Direction direction, Records& records, const Id* partner_order) {
  if (!records) return;  // no rows
  link_rows<Id>(cuda_, {sequences_, records->data(), partner_order, few_.data(), crowded_.data(),
                        entries_.data(), counts_of(direction) + segments_,
                        link_capacity<Id>(sequences_.tokens, hashes_), found_heads_, hashes_});
  records.reset();
}

template <class Id>
void CollisionFinder<Id>::link_queries() {
  link(queries, q_records_, k_order_.data());
}

template <class Id>
void CollisionFinder<Id>::link_keys() {
  link(keys, k_records_, q_order_.data());
}

template <class Id>
template <class Code>
void CollisionFinder<Id>::match(const Code* q_codes, const Code* k_codes, int heads) {
  ensure(heads <= heads_, "collisions: {} heads in a work area for {}", heads, heads_);
  const std::int64_t tokens = sequences_.tokens, lists = std::int64_t{heads} * hashes_;
  found_heads_ = heads;
  clear_counts<<<1, 128, 0, cuda_.stream>>>(counts_.data(), static_cast<int>(2 * counts_of_direction()));
  check_launch("collisions: clear");
  if (tokens == 0 || heads == 0) return;
  std::uint32_t* const q_records = q_records_.emplace(cuda_, lists * tokens).data();
  MatchWork<Id, Code> work{sequences_,
                           {q_codes, nullptr, q_records, of_queries().crowded},
                           {k_codes, k_order_.data(), nullptr, {}},
                           hashes_,
                           bits_,
                           lists};
  if (both_) {
    work.q.order = q_order_.data();
    work.k.records = k_records_.emplace(cuda_, lists * tokens).data();
    work.k.crowded = of_keys().crowded;
  }
  if (sequences_.count > 0 && sequences_.longest > 0) {
    if constexpr (sizeof(Id) == 2 && sizeof(Code) == 2) {
      if (fits_short_rows(cuda_, sequences_, bits_, both_))
        match_short_rows(cuda_, work);
      else
        match_long_rows(cuda_, work);
    } else {
      match_long_rows(cuda_, work);
    }
  }
}

template <class Id>
Collisions<Id> CollisionFinder<Id>::collisions(Direction direction, const Id* own_order,
                                               const Id* partner_order) const {
  const std::int64_t tokens = sequences_.tokens, words = link_capacity<Id>(tokens, hashes_);
  const std::int64_t most_buckets = heads_ * hashes_ * most_crowded(sequences_);
  constexpr std::int64_t ids_of_word = sizeof(std::uint32_t) / sizeof(Id);
  return {{few_.data(), reinterpret_cast<const Id*>(entries_.data()), crowded_.data(), entries_.data(), tokens,
           words * ids_of_word, words},
          {buckets_.data() + direction * most_buckets, counts_of(direction), segments_,
           most_buckets / segments_, counts_of(direction) + segments_ + heads_},
          own_order,
          partner_order,
          found_heads_,
          hashes_};
}

template <class Id>
Collisions<Id> CollisionFinder<Id>::of_queries() const {
  return collisions(queries, both_ ? q_order_.data() : nullptr, k_order_.data());
}

template <class Id>
Collisions<Id> CollisionFinder<Id>::of_keys() const {
  ensure(both_, "collisions: made for the direction of queries only");
  return collisions(keys, k_order_.data(), q_order_.data());
}

template class CollisionFinder<std::uint16_t>;
template class CollisionFinder<std::uint32_t>;
#define TERN_INSTANTIATE(Id, Code) \
  template void CollisionFinder<Id>::match<Code>(const Code*, const Code*, int);
TERN_INSTANTIATE(std::uint16_t, std::uint16_t)
TERN_INSTANTIATE(std::uint16_t, std::uint32_t)
TERN_INSTANTIATE(std::uint32_t, std::uint16_t)
TERN_INSTANTIATE(std::uint32_t, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
