#include <algorithm>
#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Some heads attend inside clusters of tokens that moving centroids draw together, the others to neighbours.
/// Source: Roy et al. 2021, "Efficient Content-Based Sparse Attention with Routing Transformers", TACL 9, arXiv
/// 2003.05997, section 4 and algorithm 1, without a causal mask.
class RoutingAttention final : public Attention {
 public:
  struct Config {
    std::int64_t clusters = 32, window = 0, routed_heads = 0, local_window = 128;
    double decay = 0.999, commitment = 1e-4;
    bool published = false;
    void fields(Fields& f) {
      f("clusters", clusters, "clusters of each routed head", between(1, 4096));
      f("window", window, "queries and keys that a cluster takes; 0 means length / clusters, rounded up",
        between(0, 1 << 30));
      f("routed_heads", routed_heads, "heads that attend inside clusters; 0 means half of them, rounded up",
        between(0, 65535));
      f("local_window", local_window, "neighbouring positions that other heads see, half of them on each side",
        between(0, 1 << 30));
      f("decay", decay, "what a centroid keeps of itself at each step", above(0) && below(1));
      f("commitment", commitment, "weight of the loss that draws queries and keys to their centroids",
        at_least(0));
      f("published", published,
        "the form of published programs: plain queries and keys attend, by directions that are not centred");
      f.require(local_window % 2 == 0, "local_window", "must be even: half of it lies on each side");
    }
    std::int64_t routed(std::int64_t heads) const { return routed_heads > 0 ? routed_heads : (heads + 1) / 2; }
  };
  static constexpr AttentionTraits traits{.is_gradient_exact = false, .time = Growth::quadratic};

  RoutingAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : config_(config),
        routed_(config.routed(shape.heads)),
        local_(shape.heads - routed_),
        root_(std::sqrt(static_cast<double>(shape.head_width))),
        pattern_{.window = static_cast<int>(config.local_window / 2)} {
    if (local_ < 0)
      throw_error(ExitCode::bad_config,
                  "model.attention.routed_heads: must be at most the {} heads of the model, got {}; lower it",
                  shape.heads, routed_);
    Parameter& centroids =
        scope.parameter("centroids", {routed_, config.clusters, shape.head_width}, normal(1));
    copy(unit_rows(centroids.master), centroids.master);
    centroids.decay = config.decay;
    centroids_ = &centroids;
    const DType dtype = centroids.master.dtype();
    const Device device = scope.store().device();
    unit_weight_ = full({shape.head_width}, 1 / root_, dtype, device);
    no_bias_ = zeros({shape.head_width}, dtype, device);
  }

  Tensor forward(const AttentionInput& in) override {
    if (local_ == 0) return routed(in);
    const std::vector<std::int64_t> heads{local_, routed_};
    const std::vector<Tensor> query = split(in.query, 1, heads), key = split(in.key, 1, heads),
                              value = split(in.value, 1, heads);
    const SparseAttention local = sparse_attention(query[0], key[0], value[0], in.layout, pattern_, 1 / root_);
    return concatenate({local.y, routed({query[1], key[1], value[1], in.layout, in.training})}, 1);
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const auto routed = static_cast<double>(config.routed(shape.heads)),
               local = static_cast<double>(shape.heads) - routed,
               clusters = static_cast<double>(config.clusters),
               window = config.window > 0 ? std::min(length, static_cast<double>(config.window))
                                          : std::ceil(length / clusters),
               neighbours = std::min(length, static_cast<double>(config.local_window + 1));
    return 2 * static_cast<double>(shape.head_width) *
           (routed * clusters * (length + window * window) + local * length * neighbours);
  }
  /// Codes of the tokens' clusters, and the rows that the clusters took.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    return length * static_cast<double>(config.routed(shape.heads)) *
           static_cast<double>(2 * config.clusters + 6 * shape.head_width);
  }

 private:
  /// Rows of length at most 1 by which tokens are routed, in float32 where data are bfloat16, [heads, tokens,
  /// width]: as products with centroids read them.
  Tensor directions(const Tensor& x) const {
    const Tensor rows = cast(permute(x, {1, 0, 2}), centroids_->value.dtype());
    return config_.published ? unit_rows(rows) : layer_norm(rows, unit_weight_, no_bias_);
  }
  /// Cosines with the centroids, [heads, clusters, tokens].
  Tensor scores(const Tensor& directions) const {
    return matmul(centroids_->value, directions, {.transpose_b = true});
  }
  /// Sum over sequences and heads of the mean cosine of a token with its nearest centroid.
  static Tensor similarity(const Tensor& scores, const SequenceLayout& layout) {
    return sum(sequence_mean(transpose(max(scores, 1), 0, 1), layout));
  }

  Tensor routed(const AttentionInput& in) const {
    const Tensor query = directions(in.query), key = directions(in.key);
    const auto routing = [&](const Tensor& x) { return scores(config_.commitment > 0 ? x : x.detach()); };
    const ClusterScores by{routing(query), routing(key)};
    const auto rows = [&](const Tensor& x) { return permute(cast(x, in.query.dtype()), {1, 0, 2}); };
    const Tensor y = config_.published ? cluster_attention(in.query, in.key, in.value, in.layout, by,
                                                           {.window = config_.window, .scale = 1 / root_})
                                       : cluster_attention(rows(query), rows(key), in.value, in.layout, by,
                                                           {.window = config_.window, .scale = root_});
    if (!in.training || !is_recording()) return y;
    // commitment * mean of |x - c|^2 over the elements x of queries and keys: with |x| and |c| fixed only the
    // products change. The derivative by the centroids is the sum of the tokens nearest to each.
    const double weight =
        config_.commitment > 0 ? config_.commitment / (static_cast<double>(routed_) * root_ * root_) : 1;
    const Tensor total = add(similarity(by.query, in.layout), similarity(by.key, in.layout));
    return with_auxiliary_loss(y, affine(total, -weight));
  }

  Config config_;
  std::int64_t routed_, local_;
  double root_;
  AttentionPattern pattern_;
  const Parameter* centroids_ = nullptr;
  Tensor unit_weight_, no_bias_;
};

}  // namespace

AttentionKind routing_attention() {
  return attention_kind<RoutingAttention>(
      "routing", "attention inside clusters by moving centroids, other heads local (Routing Transformer)");
}

}  // namespace tern
