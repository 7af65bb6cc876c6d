// Sums over colliding rows: who collides with whom comes from the CollisionFinder; crowded buckets are summed
// once, and each row then adds the rows of its lists. Deterministic: a fixed order of additions. Cost tokens *
// hashes * head_width for any data.
#include "base/cuda_path.h"
#include "base/cuda_side_work.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/bucket_gather.h"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

template <class T, class Id>
void gather(Cuda& cuda, const BucketGather<T, Id>& work) {
  if constexpr (std::is_same_v<T, bfloat16> && std::is_same_v<Id, std::uint16_t>) {
    const int parts = resident_parts(cuda, work);
    if (parts > 0) {
      log_path("YOSO's sampled form", work.out.width, "rows in shared memory");
      return gather_resident(cuda, work, parts);
    }
  }
  const char* const type = sizeof(T) == 2 ? "bfloat16" : sizeof(T) == 4 ? "float32" : "float64";
  log_path("YOSO's sampled form", work.out.width, "rows through the second-level cache", type);
  gather_rows(cuda, work);
}

template <class Id, class T, class Code>
void sum_buckets(Cuda& cuda, const Sequences& sequences, HashShape shape, const Code* source_codes,
                 Heads<const T> value, const Code* codes, Heads<T> out, Heads<Accumulate<T>> norm) {
  const std::int64_t summed_rows = shape.hashes * summed_rows_of_hash(out.tokens);
  const std::int64_t summed_items = summed_rows * out.width;  // of one head
  const std::int64_t bytes_of_head = CollisionFinder<Id>::bytes_of_head(sequences, shape.hashes, false) +
                                     summed_items * static_cast<std::int64_t>(sizeof(T));
  const auto group = static_cast<int>(std::clamp<std::int64_t>(sum_group_bytes / bytes_of_head, 1, out.heads));
  CollisionFinder<Id> finder(cuda, sequences, shape.hashes, shape.bits, group, false, false);
  const Scratch<T> summed(cuda, group * summed_items);
  for (int head = 0; head < out.heads; head += group) {
    const int heads = std::min(group, out.heads - head);
    const std::int64_t skipped = static_cast<std::int64_t>(head) * shape.hashes * out.tokens;
    finder.match(codes + skipped, source_codes + skipped, heads);
    const Collisions<Id> collisions = finder.of_queries();
    const Heads<const T> partners = heads_from(value, head, heads);
    {
      SideWork beside_links(cuda);
      sum_crowded_rows(beside_links.cuda(), sequences, collisions, partners, summed.data());
      finder.link_queries();
    }
    gather<T, Id>(
        cuda, {sequences, collisions.lists, partners, summed.data(), summed_rows, heads_from(out, head, heads),
               Accumulate<T>{1} / static_cast<Accumulate<T>>(shape.hashes), heads_from(norm, head, heads)});
  }
}

}  // namespace

template <class T, class Code>
void unit_bucket_sum(Cuda& cuda, const Sequences& sequences, HashShape shape, const Code* source_codes,
                     Heads<const T> value, const Code* codes, Heads<T> out, Heads<Accumulate<T>> norm) {
  if (out.tokens == 0 || out.heads == 0 || out.width == 0) return;
  if (sequences.longest <= rows_of_short_ids)
    sum_buckets<std::uint16_t>(cuda, sequences, shape, source_codes, value, codes, out, norm);
  else
    sum_buckets<std::uint32_t>(cuda, sequences, shape, source_codes, value, codes, out, norm);
}

template <class T, class Code>
void bucket_sum(Cuda& cuda, const Sequences& sequences, HashShape shape, const Code* source_codes,
                Heads<const T> value, const Code* codes, Heads<T> out) {
  unit_bucket_sum<T, Code>(cuda, sequences, shape, source_codes, value, codes, out, {});
}

#define TERN_INSTANTIATE(T, Code)                                                                         \
  template void bucket_sum<T, Code>(Cuda&, const Sequences&, HashShape, const Code*, Heads<const T>,      \
                                    const Code*, Heads<T>);                                               \
  template void unit_bucket_sum<T, Code>(Cuda&, const Sequences&, HashShape, const Code*, Heads<const T>, \
                                         const Code*, Heads<T>, Heads<Accumulate<T>>);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
