// YOSO's expected form: queries and keys are scaled to length one for a few heads at a time, whose attention
// follows at once. Cost of scaling: two passes over rows, forward and backward, and one over dy.
#include "kernels/cuda/bernoulli_expectation.h"
#include "kernels/cuda/unit_heads.cuh"

namespace tern::kernels {
namespace {

/// Calls body(part, heads) for groups of heads, as equal as they can be, for which `areas` work areas of scaled
/// rows stay within a bound; part(x) are the heads of the group.
template <class T, class Body>
void for_each_group(const Heads<const T>& rows, int areas, const Body& body) {
  constexpr std::int64_t most_bytes = std::int64_t{100} << 20;
  const std::int64_t bytes = areas * UnitHeads<T>::bytes_of_head(rows.tokens, rows.width);
  const auto most = static_cast<int>(std::clamp<std::int64_t>(most_bytes / bytes, 1, rows.heads));
  const int groups = (rows.heads + most - 1) / most, size = (rows.heads + groups - 1) / groups;
  for (int first = 0; first < rows.heads; first += size) {
    const int heads = std::min(size, rows.heads - first);
    body([&](const auto& x) { return heads_from(x, first, heads); }, heads);
  }
}

}  // namespace

template <class T>
void bernoulli_expectation_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                   const BernoulliOptions& options, Heads<T> y) {
  expect_values<T>(cuda, sequences, in, options, y, {});
}

template <class T>
void bernoulli_expectation_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                    const BernoulliOptions& options, Heads<const T> dy,
                                    const AttentionGradients<T>& gradients) {
  differentiate_expectation<T>(cuda, sequences, in, options, {}, dy, gradients);
}

template <class T>
void unit_bernoulli_expectation_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                        const BernoulliOptions& options, Heads<T> y,
                                        Heads<Accumulate<T>> norm) {
  if (in.q.tokens == 0 || in.q.heads == 0) return;
  for_each_group(in.q, 2, [&](const auto& part, int heads) {
    const UnitHeads<T> q(cuda, in.q.tokens, heads, in.q.width), k(cuda, in.q.tokens, heads, in.q.width);
    const AttentionInputs<T> scaled{q.scale(cuda, part(in.q)).rows, k.scale(cuda, part(in.k)).rows, part(in.v)};
    expect_values<T>(cuda, sequences, scaled, options, part(y), part(norm));
  });
}

template <class T>
void unit_bernoulli_expectation_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                         const BernoulliOptions& options, const UnitRows<T>& y,
                                         Heads<const T> dy, const AttentionGradients<T>& gradients) {
  if (in.q.tokens == 0 || in.q.heads == 0) return;
  for_each_group(in.q, 3, [&](const auto& part, int heads) {
    const auto area = [&] { return UnitHeads<T>(cuda, in.q.tokens, heads, in.q.width); };
    const UnitHeads<T> q_rows = area(), k_rows = area(), dy_rows = area();
    const UnitRows<T> q = q_rows.scale(cuda, part(in.q)), k = k_rows.scale(cuda, part(in.k));
    const Heads<const T> dsums = dy_rows.pass_scaling(cuda, part(y), part(dy));
    differentiate_expectation<T>(cuda, sequences, {q.rows, k.rows, part(in.v)}, options, {q.norm, k.norm},
                                 dsums, {part(gradients.dq), part(gradients.dk), part(gradients.dv)});
  });
}

#define INSTANTIATE(T)                                                                                     \
  template void bernoulli_expectation_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,       \
                                                 const BernoulliOptions&, Heads<T>);                       \
  template void bernoulli_expectation_backward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,      \
                                                  const BernoulliOptions&, Heads<const T>,                 \
                                                  const AttentionGradients<T>&);                           \
  template void unit_bernoulli_expectation_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,  \
                                                      const BernoulliOptions&, Heads<T>,                   \
                                                      Heads<Accumulate<T>>);                               \
  template void unit_bernoulli_expectation_backward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&, \
                                                       const BernoulliOptions&, const UnitRows<T>&,        \
                                                       Heads<const T>, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
