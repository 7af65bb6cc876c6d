#include "kernels/cluster_rows.h"

#include <algorithm>

#include "base/parallel.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t block = 8192, block_rows = 64;

int length_of(const Sequences& sequences, std::int64_t s) {
  return sequences.offsets[s + 1] - sequences.offsets[s];
}

/// What each row of a token counts for.
template <class T>
T weight_of(const MovedRows<T>& rows, std::int64_t token, int head) {
  const std::int32_t count = rows.members.count[token * rows.members.heads + head];
  return rows.averages && count > 1 ? T(1) / static_cast<T>(count) : T(1);
}

}  // namespace

template <class T, Isa isa>
void score_codes(Cpu<isa>&, std::int64_t count, const T* scores, std::int32_t* codes) {
  parallel_for((count + block - 1) / block, 1, [&](std::int64_t b) {
    for (std::int64_t i = b * block; i < std::min(count, (b + 1) * block); ++i)
      codes[i] = score_code(scores[i]);
  });
}

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

template <Isa isa>
void take_tokens(Cpu<isa>&, const Sequences& sequences, ClusterRule rule, const std::int32_t* order,
                 const std::int32_t* offsets, const ClusterMembers<std::int32_t>& members) {
  const int lists = members.heads * members.clusters;
  parallel_for(lists * sequences.count, 1, [&](std::int64_t item) {
    const std::int64_t s = item / lists;
    const int list = static_cast<int>(item % lists), head = list / members.clusters,
              cluster = list % members.clusters;
    const std::int32_t* const best = order + list * members.tokens + sequences.offsets[s];
    std::int32_t* const rows = members.rows_of(head, cluster);
    const std::int64_t first = offsets[s * members.clusters + cluster];
    for (int place = 0; place < rule.length(length_of(sequences, s)); ++place) {
      members.token[(first + place) * members.heads + head] = best[place];
      rows[best[place]] = static_cast<std::int32_t>(first + place);
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

#define INSTANTIATE(T)                                                                 \
  template void score_codes<T>(Cpu<TERN_ISA>&, std::int64_t, const T*, std::int32_t*); \
  template void gather_members<T>(Cpu<TERN_ISA>&, const MovedRows<T>&);                \
  template void combine_members<T>(Cpu<TERN_ISA>&, const MovedRows<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE
template void place_clusters(Cpu<TERN_ISA>&, const Sequences&, ClusterRule, std::int32_t*, std::int32_t*);
template void take_tokens(Cpu<TERN_ISA>&, const Sequences&, ClusterRule, const std::int32_t*,
                          const std::int32_t*, const ClusterMembers<std::int32_t>&);

}  // namespace tern::kernels
