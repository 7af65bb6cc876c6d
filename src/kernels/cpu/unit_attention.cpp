// YOSO over rows that are scaled to length one inside: the kernels for given rows between passes of scaling.
#include "kernels/attention.h"
#include "kernels/cpu/scratch.h"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

/// Rows like `x` in memory of their own, scaled to length one or otherwise derived from it.
template <class T, Isa isa>
class OwnRows {
 public:
  explicit OwnRows(const Heads<const T>& x)
      : data_(x.tokens * x.heads * x.width),
        norm_data_(x.tokens * x.heads),
        rows_{data_.data(), x.tokens, x.heads, x.width, static_cast<std::int64_t>(x.heads) * x.width, x.width},
        norm_{norm_data_.data(), x.tokens, x.heads, 1, x.heads, 1} {}
  UnitRows<T> scale(Cpu<isa>& cpu, const Heads<const T>& x) const {
    unit_rows_forward<T>(cpu, x, rows_, norm_);
    return {read_only(rows_), read_only(norm_)};
  }
  Heads<const T> pass_scaling(Cpu<isa>& cpu, const UnitRows<T>& y, const Heads<const T>& dy) const {
    unit_rows_backward<T>(cpu, y, dy, rows_);
    return read_only(rows_);
  }

 private:
  Buffer<T> data_, norm_data_;
  Heads<T> rows_, norm_;
};

}  // namespace

template <class T, class Code, Isa isa>
void unit_bucket_sum(Cpu<isa>& cpu, const Sequences& sequences, HashShape shape, const Code* source_codes,
                     Heads<const T> value, const Code* codes, Heads<T> out, Heads<T> norm) {
  bucket_sum<T, Code>(cpu, sequences, shape, source_codes, value, codes, out);
  unit_rows_forward<T>(cpu, read_only(out), out, norm);
}

template <class T, class Code, Isa isa>
void unit_collision_gradients(Cpu<isa>& cpu, const Sequences& sequences, HashShape shape,
                              const RandomStream& stream, const CollisionGradients<T, Code>& operands,
                              const UnitRows<T>& y) {
  const OwnRows<T, isa> q_rows(operands.q), k_rows(operands.k), dy_rows(operands.dy);
  const UnitRows<T> q = q_rows.scale(cpu, operands.q), k = k_rows.scale(cpu, operands.k);
  CollisionGradients<T, Code> scaled = operands;
  scaled.q = q.rows;
  scaled.k = k.rows;
  scaled.dy = dy_rows.pass_scaling(cpu, y, operands.dy);
  collision_gradients<T, Code>(cpu, sequences, shape, stream, scaled);
  unit_rows_backward<T>(cpu, q, read_only(operands.dq), operands.dq);
  unit_rows_backward<T>(cpu, k, read_only(operands.dk), operands.dk);
}

template <class T, Isa isa>
void unit_bernoulli_expectation_forward(Cpu<isa>& cpu, const Sequences& sequences, const AttentionInputs<T>& in,
                                        const BernoulliOptions& options, Heads<T> y, Heads<T> norm) {
  const OwnRows<T, isa> q(in.q), k(in.k);
  bernoulli_expectation_forward<T>(cpu, sequences, {q.scale(cpu, in.q).rows, k.scale(cpu, in.k).rows, in.v},
                                   options, y);
  unit_rows_forward<T>(cpu, read_only(y), y, norm);
}

template <class T, Isa isa>
void unit_bernoulli_expectation_backward(Cpu<isa>& cpu, const Sequences& sequences,
                                         const AttentionInputs<T>& in, const BernoulliOptions& options,
                                         const UnitRows<T>& y, Heads<const T> dy,
                                         const AttentionGradients<T>& gradients) {
  const OwnRows<T, isa> q_rows(in.q), k_rows(in.k), dy_rows(dy);
  const UnitRows<T> q = q_rows.scale(cpu, in.q), k = k_rows.scale(cpu, in.k);
  bernoulli_expectation_backward<T>(cpu, sequences, {q.rows, k.rows, in.v}, options,
                                    dy_rows.pass_scaling(cpu, y, dy), gradients);
  unit_rows_backward<T>(cpu, q, read_only(gradients.dq), gradients.dq);
  unit_rows_backward<T>(cpu, k, read_only(gradients.dk), gradients.dk);
}

#define TERN_INSTANTIATE(T)                                                                               \
  template void unit_bernoulli_expectation_forward<T>(Cpu<TERN_ISA>&, const Sequences&,                   \
                                                      const AttentionInputs<T>&, const BernoulliOptions&, \
                                                      Heads<T>, Heads<T>);                                \
  template void unit_bernoulli_expectation_backward<T>(                                                   \
      Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&, const BernoulliOptions&,               \
      const UnitRows<T>&, Heads<const T>, const AttentionGradients<T>&);
TERN_INSTANTIATE(float)
TERN_INSTANTIATE(double)
#undef TERN_INSTANTIATE

#define TERN_INSTANTIATE(T, Code)                                                                          \
  template void unit_bucket_sum<T, Code>(Cpu<TERN_ISA>&, const Sequences&, HashShape, const Code*,         \
                                         Heads<const T>, const Code*, Heads<T>, Heads<T>);                 \
  template void unit_collision_gradients<T, Code>(Cpu<TERN_ISA>&, const Sequences&, HashShape,             \
                                                  const RandomStream&, const CollisionGradients<T, Code>&, \
                                                  const UnitRows<T>&);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
