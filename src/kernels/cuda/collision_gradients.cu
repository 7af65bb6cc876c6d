// Gradients of sampled Bernoulli attention: collisions are found for a few heads at a time; then each row
// visits its partners of few-row buckets in all hashes (collision_visits*.cu), and crowded buckets are worked
// off as a whole (collision_crowded.cu) and come in as addends. Deterministic where that is. Cost: see
// hashing.h.
#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/collision_visits.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

/// Work area of a group of heads.
template <class T, class Id>
struct GroupMemory {
  GroupMemory(Cuda& cuda, const Sequences& sequences, HashShape shape, int heads, int width)
      : finder(cuda, sequences, shape.hashes, shape.bits, heads, true, cuda.options.deterministic),
        crowded(cuda, heads * sequences.tokens * width),
        summed(cuda, heads * summed_rows(sequences, shape) * width) {}

  static std::int64_t summed_rows(const Sequences& sequences, HashShape shape) {
    return shape.hashes * summed_rows_of_hash(sequences.tokens);
  }
  static std::int64_t bytes_of_head(const Sequences& sequences, HashShape shape, int width) {
    return CollisionFinder<Id>::bytes_of_head(sequences, shape.hashes, true) +
           width * (sequences.tokens * static_cast<std::int64_t>(sizeof(Accumulate<T>)) +
                    summed_rows(sequences, shape) * static_cast<std::int64_t>(sizeof(T)));
  }

  CollisionFinder<Id> finder;
  Scratch<Accumulate<T>> crowded;
  Scratch<T> summed;
};

template <class T, class Id>
void visit(Cuda& cuda, const PartnerVisits<T, Id>& visits) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_resident_partners(cuda, visits)) return visit_partners_resident(cuda, visits);
  }
  visit_partners(cuda, visits);
}

template <class Id, class T, class Code>
void run_heads(Cuda& cuda, const Sequences& sequences, HashShape shape, const RandomStream& stream,
               const CollisionGradients<T, Code>& o, bool packed) {
  using A = Accumulate<T>;
  using Memory = GroupMemory<T, Id>;
  const std::int64_t bytes = Memory::bytes_of_head(sequences, shape, o.q.width);
  const int group = static_cast<int>(std::clamp<std::int64_t>(group_bytes / bytes, 1, o.q.heads));
  Memory memory(cuda, sequences, shape, group, o.q.width);
  const bool is_exact = o.gradient == BernoulliGradient::exact;
  const A share = A{1} / static_cast<A>(shape.hashes);
  const A scale = share * static_cast<A>(shape.bits) / (is_exact ? A{1} : A{2});
  for (int first = 0; first < o.q.heads; first += group) {
    const int heads = std::min(group, o.q.heads - first);
    const auto part = [&](const auto& x) { return heads_from(x, first, heads); };
    const std::int64_t codes = std::int64_t{first} * shape.hashes * sequences.tokens;
    memory.finder.find(cuda, o.q_codes + codes, o.k_codes + codes, heads);
    PartnerVisits<T, Id> visits{sequences,
                                memory.finder.of_queries(),
                                part(o.q),
                                part(o.dy),
                                part(o.k),
                                part(o.v),
                                part(o.dq),
                                {},
                                scale,
                                share,
                                is_exact,
                                packed,
                                memory.crowded.data(),
                                memory.summed.data(),
                                Memory::summed_rows(sequences, shape)};
    const auto add_crowded = [&](bool own_is_query) {
      add_crowded_pairs(cuda, CrowdedPairs<T, Id>{sequences, visits.collisions, visits.own_x, visits.own_y,
                                                  visits.partner_x, visits.partner_y, first, is_exact,
                                                  own_is_query, stream, memory.crowded.data()});
    };
    add_crowded(true);
    visit(cuda, visits);
    visits.collisions = memory.finder.of_keys();
    std::swap(visits.own_x, visits.partner_x);
    std::swap(visits.own_y, visits.partner_y);
    visits.dx = part(o.dk);
    visits.dy = part(o.dv);
    add_crowded(false);
    sum_crowded_rows(cuda, sequences, visits.collisions, visits.partner_y, memory.summed.data());
    visit(cuda, visits);
  }
}

}  // namespace

template <class T, class Code>
void collision_gradients(Cuda& cuda, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                         const CollisionGradients<T, Code>& operands) {
  const CollisionGradients<T, Code>& o = operands;
  if (o.q.tokens == 0 || o.q.heads == 0 || o.q.width == 0) return;
  constexpr int most_width = 256;
  require(o.q.width <= most_width,
          "collision_gradients: heads must have at most {} columns, got {}; use more heads", most_width,
          o.q.width);
  const bool packed = rows_are_packed(o.q) && rows_are_packed(o.k) && rows_are_packed(o.v) &&
                      rows_are_packed(o.dy) && rows_are_packed(o.dq) && rows_are_packed(o.dk) &&
                      rows_are_packed(o.dv);
  if (sequences.longest <= rows_of_short_ids)
    run_heads<std::uint16_t>(cuda, sequences, shape, stream, o, packed);
  else
    run_heads<std::uint32_t>(cuda, sequences, shape, stream, o, packed);
}

#define TERN_INSTANTIATE(T, Code)                                                                     \
  template void collision_gradients<T, Code>(Cuda&, const Sequences&, HashShape, const RandomStream&, \
                                             const CollisionGradients<T, Code>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
