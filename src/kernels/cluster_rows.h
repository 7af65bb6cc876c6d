// Tokens that clusters take by their scores, as rows of a ragged batch of their own: the rows of attention
// inside clusters (Routing Transformer, Roy et al. 2021, arXiv 2003.05997, section 4). Cluster c of sequence s
// is sequence s * clusters + c of that batch. Deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

struct ClusterRule {
  int clusters;
  std::int64_t window;  ///< tokens that a cluster takes; 0 stands for ceil(length / clusters)

  /// Rows of each cluster of a sequence.
  [[gnu::always_inline]] TERN_HOST_DEVICE constexpr int length(int tokens) const {
    if (window == 0) return static_cast<int>((std::int64_t{tokens} + clusters - 1) / clusters);
    return window < tokens ? static_cast<int>(window) : tokens;
  }
};

constexpr int score_bits = 16;
/// Scores in [-1, 1] by falling rank in [0, 2^score_bits), so that the best sorts first; what is no number
/// comes last.
template <class T>
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr std::int32_t score_code(T score) {
  constexpr T top = (1 << score_bits) - 1;
  const T s = score > T(-1) ? (score < T(1) ? score : T(1)) : T(-1);
  return static_cast<std::int32_t>((T(1) - s) * (top / 2) + T(0.5));
}

/// Where the clusters' rows lie: offsets [count * clusters + 1], and the clusters by falling length, order
/// [count * clusters].
template <Isa isa>
void place_clusters(Cpu<isa>&, const Sequences& sequences, ClusterRule rule, std::int32_t* offsets,
                    std::int32_t* order);
void place_clusters(Cuda&, const Sequences& sequences, ClusterRule rule, std::int32_t* offsets,
                    std::int32_t* order);

/// Which tokens the clusters took. -1: a row of no cluster, a token that the cluster did not take.
template <class Int>
struct ClusterMembers {
  int heads, clusters;
  std::int64_t tokens;
  Int* token;  ///< [rows, heads] token of each row
  Int* row;    ///< [heads, clusters, tokens] row of each token
  Int* count;  ///< [tokens, heads] clusters that took a token

  [[gnu::always_inline]] TERN_HOST_DEVICE Int* rows_of(int head, int cluster) const {
    return row + (std::int64_t{head} * clusters + cluster) * tokens;
  }
};
/// The rule.length() tokens of the lowest score_code in each cluster of `scores` [heads, clusters, tokens], the
/// first ones among equals, for `offsets` of place_clusters. A cluster's rows lie by code on a CPU and by token
/// on a GPU. `token` must hold -1 before; `row` and `count` are overwritten.
template <class T, Isa isa>
void take_tokens(Cpu<isa>&, const Sequences& sequences, ClusterRule rule, const T* scores,
                 const std::int32_t* offsets, const ClusterMembers<std::int32_t>& members);
template <class T>
void take_tokens(Cuda&, const Sequences& sequences, ClusterRule rule, const T* scores,
                 const std::int32_t* offsets, const ClusterMembers<std::int32_t>& members);

/// Rows of tokens and rows of clusters, one of which is moved to the other.
template <class T>
struct MovedRows {
  ClusterMembers<const std::int32_t> members;
  bool averages;  ///< whether a token's rows weigh 1 / their number instead of 1
  Heads<const T> from;
  Heads<T> to;
};
/// to[r, h] = weight from[token[r, h], h]; zeros for rows of no cluster.
template <class T, Isa isa>
void gather_members(Cpu<isa>&, const MovedRows<T>& rows);
template <class T>
void gather_members(Cuda&, const MovedRows<T>& rows);
/// to[t, h] = weight times the sum of `from` over the rows of t, in the order of the clusters; zeros where it
/// has none. The adjoint of gather_members.
template <class T, Isa isa>
void combine_members(Cpu<isa>&, const MovedRows<T>& rows);
template <class T>
void combine_members(Cuda&, const MovedRows<T>& rows);

}  // namespace tern::kernels
