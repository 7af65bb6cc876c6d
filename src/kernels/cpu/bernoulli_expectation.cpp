// The expected form of YOSO attention: weights (1 - arccos(q . k) / pi)^bits without a normalizer.
#include "kernels/attention.h"
#include "kernels/cpu/attention_loops.h"

namespace tern::kernels {
namespace {

template <class T, Isa isa, BernoulliGradient gradient>
class BernoulliScore {
 public:
  static constexpr int lanes = Simd<T, isa>::lanes;
  using V = Vector<T, isa>;

  struct Rows {
    Rows(Layout&, int, int) {}
  };

  explicit BernoulliScore(int bits) : bits_(bits) {}

  T query_factor() const { return 1; }
  T dq_factor() const { return gradient == BernoulliGradient::surrogate ? static_cast<T>(bits_ / 2.0) : 1; }
  T dk_factor() const { return dq_factor(); }

  void begin(Rows&, int) const {}

  void weigh(Rows&, const ScoreTile<T>& tile) const {
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile.stride;
      for (int c = 0; c < tile.columns; c += lanes) {
        const V base = agreement<T, isa>(clamped(load<T, isa>(scores + c)));
        store<T, isa>(scores + c, integer_power<T, isa>(base, bits_));
      }
    }
  }

  T finish(const Rows&, const AttentionTask&, int) const { return 1; }

  void differentiate(Rows&, const ScoreTile<T>& tile) const {
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile.stride;
      T* slopes = tile.slopes + r * tile.stride;
      for (int c = 0; c < tile.columns; c += lanes) {
        const V cosine = clamped(load<T, isa>(scores + c)), slope = load<T, isa>(slopes + c);
        const V base = agreement<T, isa>(cosine);
        if constexpr (gradient == BernoulliGradient::surrogate) {
          const V weight = integer_power<T, isa>(base, bits_);
          store<T, isa>(scores + c, weight);
          store<T, isa>(slopes + c, slope * weight);
        } else {
          const V power = integer_power<T, isa>(base, bits_ - 1);
          const V factor = static_cast<T>(bits_ * 0.31830988618379067154) /
                           square_root<T, isa>((T{1} - cosine) * (T{1} + cosine));
          store<T, isa>(scores + c, power * base);
          store<T, isa>(slopes + c, slope * power * factor);
        }
      }
    }
  }

 private:
  /// Into +-(1 - 1e-6); NaN stays.
  static V clamped(V cosine) {
    const V limit = broadcast<T, isa>(static_cast<T>(1 - 1e-6));
    const V raised = larger<T, isa>(-limit, cosine);
    return limit < raised ? limit : raised;
  }

  int bits_;
};

}  // namespace

template <class T, Isa isa>
void bernoulli_expectation_forward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                                   const BernoulliOptions& options, Heads<T> y) {
  const BernoulliScore<T, isa, BernoulliGradient::surrogate> score(options.bits);
  attention_forward<T, isa>(sequences, in, score, y);
}

template <class T, Isa isa>
void bernoulli_expectation_backward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                                    const BernoulliOptions& options, Heads<const T> dy,
                                    const AttentionGradients<T>& gradients) {
  const BackwardArguments<T> arguments{in, dy, gradients};
  if (options.gradient == BernoulliGradient::surrogate) {
    const BernoulliScore<T, isa, BernoulliGradient::surrogate> score(options.bits);
    attention_backward<T, isa>(sequences, arguments, score);
  } else {
    const BernoulliScore<T, isa, BernoulliGradient::exact> score(options.bits);
    attention_backward<T, isa>(sequences, arguments, score);
  }
}

#define INSTANTIATE(T)                                                                                         \
  template void bernoulli_expectation_forward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,  \
                                                 const BernoulliOptions&, Heads<T>);                           \
  template void bernoulli_expectation_backward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&, \
                                                  const BernoulliOptions&, Heads<const T>,                     \
                                                  const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
