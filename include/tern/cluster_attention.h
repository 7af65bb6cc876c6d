// Attention inside clusters of tokens: what the Routing Transformer is made of (Roy et al. 2021, arXiv
// 2003.05997, section 4).
#pragma once

#include "tern/sequence_layout.h"

namespace tern {

/// How well tokens fit clusters, in [-1, 1], for queries and for keys: [heads, clusters, tokens] each.
struct ClusterScores {
  Tensor query, key;
};
struct ClusterAttentionOptions {
  std::int64_t window = 0;  ///< tokens that a cluster takes; 0: ceil(length / clusters)
  double scale = 1;
};
/// Each cluster of a sequence and head takes the queries, and the keys, of the highest scores, as many as the
/// window and the sequence have, and computes softmax(scale q k^T) v among them; a token's row is the mean over
/// the clusters that took its query, or zeros (algorithm 1). Scores are rounded to 65,536 levels; among equal
/// ones the first token wins. They are not differentiable. Cost clusters * window^2 * width and
/// some passes over clusters * length scores for each head; memory clusters * length.
Tensor cluster_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                         const ClusterScores& scores, const ClusterAttentionOptions& options);

}  // namespace tern
