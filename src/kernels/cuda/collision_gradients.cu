// Gradients of sampled Bernoulli attention: collisions are found for a few heads at a time; then each row
// visits its partners of few-row buckets in all hashes (collision_visits*.cu), and crowded buckets are worked
// off as a whole (collision_crowded.cu) and come in as addends. Where rows are to be scaled to length one, that
// happens for the same few heads, and visits end with the gradient of the scaling. Scaling runs beside hashing
// and matching, crowded buckets beside the linking of lists: none of these fills a GPU. Deterministic where
// crowded buckets are.
// Cost: see hashing.h.
#include <algorithm>

#include "base/cuda_side_work.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/collision_visits.h"
#include "kernels/cuda/copy_rows.cuh"
#include "kernels/cuda/unit_heads.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

/// Rows of at most so many bytes lie in pairs that visits read together, where they are scaled: then the two of
/// a partner are one request to the second-level cache.
constexpr int joined_bytes = 64;

/// The gradients of all heads, a group of heads after another in one work area.
template <class T, class Code, class Id>
class GradientGroups {
 public:
  using A = Accumulate<T>;

  /// y: without data where rows are taken as they are.
  GradientGroups(Cuda& cuda, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                 const CollisionGradients<T, Code>& operands, const UnitRows<T>& y)
      : cuda_(cuda),
        sequences_(sequences),
        shape_(shape),
        stream_(stream),
        o_(operands),
        y_(y),
        most_heads_(heads_together(sequences, shape, operands.q, y.rows.data != nullptr)),
        finder_(cuda, sequences, shape.hashes, shape.bits, most_heads_, true, cuda.options.deterministic),
        crowded_(cuda, most_heads_ * sequences.tokens * operands.q.width),
        joins_(rows_are_joined(operands.q)),
        q_(cuda, sequences.tokens, unit_heads(), operands.q.width, joins_ ? 2 : 1),
        k_(cuda, sequences.tokens, unit_heads(), operands.q.width, joins_ ? 2 : 1),
        dy_(cuda, sequences.tokens, joins_ ? 0 : unit_heads(), operands.q.width) {
    const std::int64_t sums = most_heads_ * sequences.tokens * operands.q.width;
    check_cuda(cudaMemsetAsync(crowded_.data(), 0, static_cast<std::size_t>(sums) * sizeof(A), cuda.stream),
               "collision_gradients: clear");
  }

  void run() {
    for (int first = 0; first < o_.q.heads; first += most_heads_)
      run_group(first, std::min(most_heads_, o_.q.heads - first));
  }

 private:
  static int heads_together(const Sequences& sequences, HashShape shape, const Heads<const T>& rows,
                            bool are_scaled) {
    const std::int64_t bytes =
        CollisionFinder<Id>::bytes_of_head(sequences, shape.hashes, true) +
        rows.width * (sequences.tokens * static_cast<std::int64_t>(sizeof(A)) +
                      summed_rows(sequences, shape) * static_cast<std::int64_t>(sizeof(T))) +
        (are_scaled
             ? (rows_are_joined(rows) ? 4 : 3) * UnitHeads<T>::bytes_of_head(sequences.tokens, rows.width)
             : 0);
    return static_cast<int>(std::clamp<std::int64_t>(group_bytes / bytes, 1, rows.heads));
  }
  static bool rows_are_joined(const Heads<const T>& rows) {
    return rows.width * static_cast<int>(sizeof(T)) <= joined_bytes;
  }
  int unit_heads() const { return y_.rows.data == nullptr ? 0 : most_heads_; }
  static std::int64_t summed_rows(const Sequences& sequences, HashShape shape) {
    return shape.hashes * summed_rows_of_hash(sequences.tokens);
  }

  /// One direction of a group of heads: own rows [x | y], partner rows [x | y], and what own x were scaled by.
  PartnerVisits<T, Id> visits_of(const UnitRows<T>& own_x, const Heads<const T>& own_y,
                                 const UnitRows<T>& partner_x, const Heads<const T>& partner_y) const {
    const bool is_exact = o_.gradient == BernoulliGradient::exact;
    const A share = A{1} / static_cast<A>(shape_.hashes);
    const bool packed = rows_are_packed(o_.q) && rows_are_packed(o_.k) && rows_are_packed(o_.v) &&
                        rows_are_packed(o_.dy) && rows_are_packed(o_.dq) && rows_are_packed(o_.dk) &&
                        rows_are_packed(o_.dv);
    return {.sequences = sequences_,
            .collisions = {},
            .own_x = own_x.rows,
            .own_y = own_y,
            .partner_x = partner_x.rows,
            .partner_y = partner_y,
            .dx = {},
            .dy = {},
            .scale = share * static_cast<A>(shape_.bits) / (is_exact ? A{1} : A{2}),
            .value_scale = share,
            .is_exact = is_exact,
            .packed = packed,
            .crowded = crowded_.data(),
            .summed = nullptr,
            .summed_rows = summed_rows(sequences_, shape_),
            .norm = own_x.norm};
  }

  void add_crowded(Cuda& cuda, const PartnerVisits<T, Id>& visits, int first_head, bool own_is_query) {
    add_crowded_pairs(cuda, CrowdedPairs<T, Id>{sequences_, visits.collisions, visits.own_x, visits.own_y,
                                                visits.partner_x, visits.partner_y, first_head, visits.is_exact,
                                                own_is_query, stream_, crowded_.data()});
  }

  void match(int first, int heads) {
    const std::int64_t of_head = shape_.hashes * sequences_.tokens, skipped = first * of_head;
    if (o_.q_codes != nullptr) return finder_.match(o_.q_codes + skipped, o_.k_codes + skipped, heads);
    const Scratch<Code> codes(cuda_, 2 * heads * of_head);
    Code* const k_codes = codes.data() + heads * of_head;
    hash_codes<T, Code>(cuda_, sequences_, heads_from(o_.q, first, heads), heads_from(o_.k, first, heads),
                        shape_, stream_, codes.data(), k_codes, first);
    finder_.match(codes.data(), k_codes, heads);
  }

  /// Rows of a group of heads, scaled where they are to be.
  struct Rows {
    UnitRows<T> q, k;
    Heads<const T> v, dy;
  };
  Rows scale(Cuda& cuda, int first, int heads) const {
    const auto part = [&](const auto& x) { return heads_from(x, first, heads); };
    if (y_.rows.data == nullptr) return {{part(o_.q), {}}, {part(o_.k), {}}, part(o_.v), part(o_.dy)};
    const Heads<T> dy = joins_ ? q_.rows(part(o_.dy), 1) : dy_.rows(part(o_.dy), 0);
    unit_rows_backward<T>(cuda, part(y_), part(o_.dy), dy);
    Heads<const T> v = part(o_.v);
    if (joins_) {
      const Heads<T> joined = k_.rows(v, 1);
      copy_rows<T>(cuda, v, joined);
      v = read_only(joined);
    }
    return {q_.scale(cuda, part(o_.q)), k_.scale(cuda, part(o_.k)), v, read_only(dy)};
  }

  void run_group(int first, int heads) {
    Rows rows;
    {
      SideWork side(cuda_);
      rows = scale(side.cuda(), first, heads);
      match(first, heads);
      side.follow();
      add_crowded(side.cuda(), of_queries(rows, first, heads), first, true);
      finder_.link_queries();
    }
    visit_partners(cuda_, of_queries(rows, first, heads));
    PartnerVisits<T, Id> keys = of_keys(rows, first, heads);
    const Scratch<T> summed(cuda_, heads * keys.summed_rows * o_.q.width);
    keys.summed = summed.data();
    {
      SideWork side(cuda_);
      sum_crowded_rows(side.cuda(), sequences_, keys.collisions, keys.partner_y, summed.data());
      add_crowded(side.cuda(), keys, first, false);
      finder_.link_keys();
    }
    visit_partners(cuda_, keys);
  }

  PartnerVisits<T, Id> of_queries(const Rows& rows, int first, int heads) const {
    PartnerVisits<T, Id> visits = visits_of(rows.q, rows.dy, rows.k, rows.v);
    visits.collisions = finder_.of_queries();
    visits.dx = heads_from(o_.dq, first, heads);
    return visits;
  }
  PartnerVisits<T, Id> of_keys(const Rows& rows, int first, int heads) const {
    PartnerVisits<T, Id> visits = visits_of(rows.k, rows.v, rows.q, rows.dy);
    visits.collisions = finder_.of_keys();
    visits.dx = heads_from(o_.dk, first, heads);
    visits.dy = heads_from(o_.dv, first, heads);
    return visits;
  }

  Cuda& cuda_;
  Sequences sequences_;
  HashShape shape_;
  RandomStream stream_;
  CollisionGradients<T, Code> o_;
  UnitRows<T> y_;
  int most_heads_;
  CollisionFinder<Id> finder_;
  Scratch<A> crowded_;
  bool joins_;               ///< dy_ has no rows, they lie beside those of q_, and values beside those of k_
  UnitHeads<T> q_, k_, dy_;  ///< scaled rows, and the gradient of what the rows y were before
};

}  // namespace

template <class T, class Code>
void unit_collision_gradients(Cuda& cuda, const Sequences& sequences, HashShape shape,
                              const RandomStream& stream, const CollisionGradients<T, Code>& operands,
                              const UnitRows<T>& y) {
  const Heads<const T>& q = operands.q;
  if (q.tokens == 0 || q.heads == 0 || q.width == 0) return;
  constexpr int most_width = 256;
  require(q.width <= most_width,
          "collision_gradients: heads must have at most {} columns, got {}; use more heads", most_width,
          q.width);
  if (sequences.longest <= rows_of_short_ids)
    GradientGroups<T, Code, std::uint16_t>(cuda, sequences, shape, stream, operands, y).run();
  else
    GradientGroups<T, Code, std::uint32_t>(cuda, sequences, shape, stream, operands, y).run();
}

template <class T, class Code>
void collision_gradients(Cuda& cuda, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                         const CollisionGradients<T, Code>& operands) {
  unit_collision_gradients(cuda, sequences, shape, stream, operands, UnitRows<T>{});
}

#define TERN_INSTANTIATE(T, Code)                                                                          \
  template void collision_gradients<T, Code>(Cuda&, const Sequences&, HashShape, const RandomStream&,      \
                                             const CollisionGradients<T, Code>&);                          \
  template void unit_collision_gradients<T, Code>(Cuda&, const Sequences&, HashShape, const RandomStream&, \
                                                  const CollisionGradients<T, Code>&, const UnitRows<T>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
