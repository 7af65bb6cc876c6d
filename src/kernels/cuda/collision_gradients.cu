// Gradients of sampled Bernoulli attention: collisions are found for a few heads at a time; then each row
// visits its partners in buckets that are not crowded, in all hashes (collision_visits*.cu), and crowded
// buckets are worked off as a whole (collision_crowded.cu) and come in as addends. Where rows are to be scaled
// to length one, that happens for the same few heads, and visits end with the gradient of the scaling.
// Deterministic where that is. Cost: see hashing.h.
#include <algorithm>
#include <optional>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/collision_crowded.h"
#include "kernels/cuda/collision_operands.cuh"
#include "kernels/cuda/collision_visits.h"

namespace tern::kernels {
namespace {

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
        is_exact_(operands.gradient == BernoulliGradient::exact),
        is_packed_(rows_are_packed(operands)),
        width_(operands.q.width),
        heads_(operands.q.heads),
        form_(form(cuda, sequences, shape, operands)),
        most_heads_(heads_together(sequences, shape, operands.q, y, form_)),
        operands_(cuda, sequences, shape, stream, operands, y, most_heads_),
        finder_(cuda, sequences, shape.hashes, shape.bits, most_heads_, true, cuda.options.deterministic,
                form_),
        crowded_(cuda, most_heads_ * sequences.tokens * width_) {
    if (form_ == CollisionForm::words) plan_.emplace(cuda, sequences, counted_own_rows);
  }

  void run() {
    for (int first = 0; first < heads_; first += most_heads_)
      run_group(first, std::min(most_heads_, heads_ - first));
  }

 private:
  static CollisionForm form(const Cuda& cuda, const Sequences& sequences, HashShape shape,
                            const CollisionGradients<T, Code>& operands) {
    if constexpr (std::is_same_v<T, bfloat16> && sizeof(Code) == 2 && sizeof(Id) == 2) {
      if (operands.gradient == BernoulliGradient::surrogate && rows_are_packed(operands) &&
          fits_counted_partners(cuda, sequences, shape.hashes, shape.bits, operands.q.width))
        return CollisionForm::words;
    }
    return CollisionForm::lists;
  }
  static int heads_together(const Sequences& sequences, HashShape shape, const Heads<const T>& rows,
                            const UnitRows<T>& y, CollisionForm form) {
    const std::int64_t bytes =
        CollisionFinder<Id>::bytes_of_head(sequences, shape.hashes, true, form) +
        rows.width * (sequences.tokens * static_cast<std::int64_t>(sizeof(A)) +
                      summed_rows(sequences, shape) * static_cast<std::int64_t>(sizeof(T))) +
        HeadOperands<T, Code>::bytes_of_head(rows, y);
    return static_cast<int>(std::clamp<std::int64_t>(group_bytes / bytes, 1, rows.heads));
  }
  static std::int64_t summed_rows(const Sequences& sequences, HashShape shape) {
    return shape.hashes * summed_rows_of_hash(sequences.tokens);
  }

  /// One direction of a group of heads: own rows [x | y], partner rows [x | y], and what own x were scaled by.
  PartnerVisits<T, Id> visits_of(const UnitRows<T>& own_x, const Heads<const T>& own_y,
                                 const Heads<const T>& partner_x, const Heads<const T>& partner_y) const {
    const A share = A{1} / static_cast<A>(shape_.hashes);
    return {.sequences = sequences_,
            .collisions = {},
            .own_x = own_x.rows,
            .own_y = own_y,
            .partner_x = partner_x,
            .partner_y = partner_y,
            .dx = {},
            .dy = {},
            .scale = share * static_cast<A>(shape_.bits) / (is_exact_ ? A{1} : A{2}),
            .value_scale = share,
            .is_exact = is_exact_,
            .packed = is_packed_,
            .crowded = crowded_.data(),
            .summed = nullptr,
            .summed_rows = summed_rows(sequences_, shape_),
            .norm = own_x.norm};
  }

  void add_crowded(const PartnerVisits<T, Id>& visits, int first_head, bool own_is_query) {
    add_crowded_pairs(cuda_, CrowdedPairs<T, Id>{sequences_, visits.collisions, visits.own_x, visits.own_y,
                                                 visits.partner_x, visits.partner_y, first_head,
                                                 visits.is_exact, own_is_query, stream_, crowded_.data()});
  }

  void visit(const PartnerVisits<T, Id>& visits) {
    if constexpr (std::is_same_v<T, bfloat16>) {
      if constexpr (sizeof(Id) == 2) {
        if (form_ == CollisionForm::words) return visit_partners_counted(cuda_, visits, *plan_);
      }
      if (fits_resident_partners(cuda_, visits)) return visit_partners_resident(cuda_, visits);
    }
    visit_partners(cuda_, visits);
  }

  void run_group(int first, int heads) {
    operands_.with_codes(first, heads, [&](const Code* q_codes, const Code* k_codes) {
      finder_.find(cuda_, q_codes, k_codes, heads);
    });
    const auto rows = operands_.rows(first, heads);
    PartnerVisits<T, Id> queries = visits_of(rows.q, rows.dy, rows.k.rows, rows.v);
    queries.collisions = finder_.of_queries();
    queries.dx = rows.dq;
    add_crowded(queries, first, true);
    visit(queries);
    PartnerVisits<T, Id> keys = visits_of(rows.k, rows.v, rows.q.rows, rows.dy);
    keys.collisions = finder_.of_keys();
    keys.dx = rows.dk;
    keys.dy = rows.dv;
    add_crowded(keys, first, false);
    const Scratch<T> summed(cuda_, heads * keys.summed_rows * width_);
    sum_crowded_rows(cuda_, sequences_, keys.collisions, keys.partner_y, summed.data());
    keys.summed = summed.data();
    visit(keys);
  }

  Cuda& cuda_;
  Sequences sequences_;
  HashShape shape_;
  RandomStream stream_;
  bool is_exact_, is_packed_;
  int width_, heads_;
  CollisionForm form_;
  int most_heads_;
  HeadOperands<T, Code> operands_;
  CollisionFinder<Id> finder_;
  Scratch<A> crowded_;
  std::optional<hopper::TilePlan> plan_;  ///< of visits by counts
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
