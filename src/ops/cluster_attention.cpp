// Attention inside clusters of tokens: the chosen rows as a ragged batch of their own, exact attention over it,
// and the way back.
#include <algorithm>

#include "kernels/cluster_rows.h"
#include "ops/attention_inputs.h"

namespace tern {
namespace {

/// No batch has more rows of clusters.
std::int64_t most_rows(const SequenceLayout& layout, kernels::ClusterRule rule) {
  const std::int64_t lists = layout.sequences() * rule.clusters;
  if (rule.window == 0) return layout.tokens() + lists;
  return std::min(lists * rule.length(static_cast<int>(layout.longest)), layout.tokens() * rule.clusters);
}

/// A sequence of rows for each sequence and cluster. Positions are not used: nothing draws from them.
SequenceLayout rows_layout(const SequenceLayout& layout, kernels::ClusterRule rule) {
  const Device device = layout.offsets.device();
  const std::int64_t lists = layout.sequences() * rule.clusters;
  const std::int64_t most = most_rows(layout, rule);
  require(most <= std::numeric_limits<std::int32_t>::max(),
          "cluster_attention: the clusters must have less than 2^31 rows, got {}", most);
  SequenceLayout out;
  out.offsets = empty({lists + 1}, DType::int32, device);
  out.order = empty({lists}, DType::int32, device);
  dispatch_device(device, [&](auto& context) {
    kernels::place_clusters(context, sequences_of(layout), rule, out.offsets.data<std::int32_t>(),
                            out.order.data<std::int32_t>());
  });
  // on a GPU the host does not follow the offsets: there are as many rows as there can be
  const bool is_known = device.type == DeviceType::cpu;
  const std::int64_t rows = is_known ? out.offsets.data<const std::int32_t>()[lists] : most;
  out.position = zeros({rows}, DType::int32, device);
  out.sample = zeros({lists}, DType::int64, device);
  out.token_sample = zeros({rows}, DType::int64, device);
  out.longest = rule.length(static_cast<int>(layout.longest));
  out.shortest = rule.length(static_cast<int>(layout.shortest));
  out.padded_length = out.longest;
  return out;
}

/// kernels::ClusterMembers.
struct Members {
  int heads, clusters;
  Tensor token, row, count;

  kernels::ClusterMembers<const std::int32_t> view() const {
    return {heads,
            clusters,
            row.size(2),
            token.data<const std::int32_t>(),
            row.data<const std::int32_t>(),
            count.data<const std::int32_t>()};
  }
};

Members best_tokens(const Tensor& input, const SequenceLayout& layout, const SequenceLayout& rows,
                    kernels::ClusterRule rule) {
  const Tensor scores = contiguous_constant(input);
  const std::int64_t heads = scores.size(0), tokens = scores.size(2);
  const Members out{static_cast<int>(heads), rule.clusters,
                    full({rows.tokens(), heads}, -1, DType::int32, scores.device()),
                    empty(scores.shape(), DType::int32, scores.device()),
                    empty({tokens, heads}, DType::int32, scores.device())};
  dispatch(scores, [&]<class T>(auto& device, Type<T>) {
    kernels::take_tokens<T>(device, sequences_of(layout), rule, scores.data<const T>(),
                            rows.offsets.data<const std::int32_t>(),
                            {out.heads, out.clusters, tokens, out.token.data<std::int32_t>(),
                             out.row.data<std::int32_t>(), out.count.data<std::int32_t>()});
  });
  return out;
}

/// What a token's rows count for.
enum class Share { sum, mean };

Tensor rows_of_tokens(const Tensor& input, const Members& members, Share share) {
  const Tensor x = with_unit_width(input),
               y = empty({members.token.size(0), x.size(1), x.size(2)}, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::gather_members<T>(device,
                               {members.view(), share == Share::mean, heads_of<const T>(x), heads_of<T>(y)});
  });
  return y;
}
Tensor tokens_of_rows(const Tensor& input, const Members& members, Share share) {
  const Tensor y = with_unit_width(input),
               x = empty({members.row.size(2), y.size(1), y.size(2)}, y.dtype(), y.device());
  dispatch(y, [&]<class T>(auto& device, Type<T>) {
    kernels::combine_members<T>(device,
                                {members.view(), share == Share::mean, heads_of<const T>(y), heads_of<T>(x)});
  });
  return x;
}

Tensor gathered(const Tensor& x, const Members& members) {
  return record("gather_members", rows_of_tokens(x, members, Share::sum), {x},
                [members](const Tensor& dy, GradientSink& sink) {
                  sink.add(0, tokens_of_rows(dy, members, Share::sum));
                });
}
Tensor averaged(const Tensor& y, const Members& members) {
  return record("average_members", tokens_of_rows(y, members, Share::mean), {y},
                [members](const Tensor& dx, GradientSink& sink) {
                  sink.add(0, rows_of_tokens(dx, members, Share::mean));
                });
}

}  // namespace

Tensor cluster_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                         const ClusterScores& scores, const ClusterAttentionOptions& options) {
  attention_inputs("cluster_attention", q, k, v, layout);
  for (const Tensor& x : {scores.query, scores.key}) {
    require_floating("cluster_attention", x);
    require(x.rank() == 3 && x.size(0) == q.size(1) && x.size(1) > 0 && x.size(2) == layout.tokens() &&
                x.shape() == scores.query.shape(),
            "cluster_attention: scores must be [{}, clusters, {}] of queries and keys alike, got {} and {}",
            q.size(1), layout.tokens(), scores.query.shape(), x.shape());
  }
  require_one_device("cluster_attention",
                     {{"q", q}, {"scores of queries", scores.query}, {"scores of keys", scores.key}});
  require(options.window >= 0, "cluster_attention: the window must be at least 0, got {}", options.window);
  const kernels::ClusterRule rule{static_cast<int>(scores.query.size(1)), options.window};
  const SequenceLayout rows = rows_layout(layout, rule);
  const Members queries = best_tokens(scores.query, layout, rows, rule),
                keys = best_tokens(scores.key, layout, rows, rule);
  const Tensor y =
      softmax_attention(gathered(q, queries), gathered(k, keys), gathered(v, keys), rows, options.scale, {});
  return averaged(y, queries);
}

}  // namespace tern
