#include "kernels/cluster_rows.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/scratch.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t block_rows = 64;

int length_of(const Sequences& sequences, std::int64_t s) {
  return sequences.offsets[s + 1] - sequences.offsets[s];
}

struct BestScratch {
  BestScratch(Layout& layout, int tokens) : key(layout.take<std::uint64_t>(tokens)) {}
  std::uint64_t* key;  ///< code, then place in the sequence
};

/// The first `taken` of `length` scores by code and place, in this order, as keys of BestScratch.
template <class T>
std::uint64_t* best_keys(const T* scores, int length, int taken) {
  std::uint64_t* const key = thread_scratch<BestScratch>(length).key;
  for (int i = 0; i < length; ++i)
    key[i] = static_cast<std::uint64_t>(score_code(scores[i])) << 32 | static_cast<std::uint64_t>(i);
  std::nth_element(key, key + taken, key + length);
  std::sort(key, key + taken);
  return key;
}

/// What each row of a token counts for.
template <class T>
T weight_of(const MovedRows<T>& rows, std::int64_t token, int head) {
  const std::int32_t count = rows.members.count[token * rows.members.heads + head];
  return rows.averages && count > 1 ? T(1) / static_cast<T>(count) : T(1);
}

}  // namespace

template <Isa isa>
void place_clusters(Cpu<isa>&, const Sequences& sequences, ClusterRule rule, std::int32_t* offsets,
                    std::int32_t* order) {
  offsets[0] = 0;
  for (std::int64_t s = 0; s < sequences.count; ++s)
    for (int c = 0; c < rule.clusters; ++c) {
      const std::int64_t place = s * rule.clusters + c;
      offsets[place + 1] = offsets[place] + rule.length(length_of(sequences, s));
      order[place] = sequences.order[s] * rule.clusters + c;
    }
}

template <class T, Isa isa>
void take_tokens(Cpu<isa>&, const Sequences& sequences, ClusterRule rule, const T* scores,
                 const std::int32_t* offsets, const ClusterMembers<std::int32_t>& members) {
  const int lists = members.heads * members.clusters;
  parallel_for(lists, 1, [&](std::int64_t list) {
    std::fill(members.row + list * members.tokens, members.row + (list + 1) * members.tokens, -1);
  });
  parallel_for(lists * sequences.count, 1, [&](std::int64_t item) {
    const std::int64_t s = item / lists;
    const int list = static_cast<int>(item % lists), head = list / members.clusters,
              cluster = list % members.clusters;
    const int begin = sequences.offsets[s], length = length_of(sequences, s), taken = rule.length(length);
    const std::uint64_t* const best = best_keys(scores + list * members.tokens + begin, length, taken);
    std::int32_t* const rows = members.rows_of(head, cluster);
    const std::int64_t first = offsets[s * members.clusters + cluster];
    for (int place = 0; place < taken; ++place) {
      const int token = begin + static_cast<int>(best[place] & 0xFFFFFFFFu);
      members.token[(first + place) * members.heads + head] = token;
      rows[token] = static_cast<std::int32_t>(first + place);
    }
  });
  parallel_for(members.tokens, block_rows, [&](std::int64_t token) {
    for (int head = 0; head < members.heads; ++head) {
      std::int32_t count = 0;
      for (int c = 0; c < members.clusters; ++c) count += members.rows_of(head, c)[token] >= 0 ? 1 : 0;
      members.count[token * members.heads + head] = count;
    }
  });
}

template <class T, Isa isa>
void gather_members(Cpu<isa>&, const MovedRows<T>& rows) {
  parallel_for(rows.to.tokens, block_rows, [&](std::int64_t r) {
    for (int head = 0; head < rows.to.heads; ++head) {
      const std::int32_t token = rows.members.token[r * rows.members.heads + head];
      T* const to = rows.to.row(r, head);
      if (token < 0) {
        std::fill(to, to + rows.to.width, T(0));
        continue;
      }
      const T* const from = rows.from.row(token, head);
      const T weight = weight_of(rows, token, head);
      for (int c = 0; c < rows.to.width; ++c) to[c] = weight * from[c];
    }
  });
}

template <class T, Isa isa>
void combine_members(Cpu<isa>&, const MovedRows<T>& rows) {
  parallel_for(rows.to.tokens, block_rows, [&](std::int64_t token) {
    for (int head = 0; head < rows.to.heads; ++head) {
      T* const to = rows.to.row(token, head);
      std::fill(to, to + rows.to.width, T(0));
      const T weight = weight_of(rows, token, head);
      for (int cluster = 0; cluster < rows.members.clusters; ++cluster) {
        const std::int32_t r = rows.members.rows_of(head, cluster)[token];
        if (r < 0) continue;
        const T* const from = rows.from.row(r, head);
        for (int c = 0; c < rows.to.width; ++c) to[c] += weight * from[c];
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                       \
  template void take_tokens<T>(Cpu<TERN_ISA>&, const Sequences&, ClusterRule, const T*, const std::int32_t*, \
                               const ClusterMembers<std::int32_t>&);                                         \
  template void gather_members<T>(Cpu<TERN_ISA>&, const MovedRows<T>&);                                      \
  template void combine_members<T>(Cpu<TERN_ISA>&, const MovedRows<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE
template void place_clusters(Cpu<TERN_ISA>&, const Sequences&, ClusterRule, std::int32_t*, std::int32_t*);

}  // namespace tern::kernels
