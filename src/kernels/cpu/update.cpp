#include "kernels/update.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/parallel.h"

namespace tern::kernels {
namespace {

constexpr double smallest_square = 1e-24;  ///< of a row that is given length 1

template <class T>
double sum_of_squares(const T* x, std::int64_t count) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t i = 0; i < count; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

/// The scalars of one update in the parameters' type.
template <class T>
struct AdamScalars {
  T beta1, beta2, rest1, rest2, epsilon, shrink, scale, rate, root;
};
template <class T>
void update(std::int64_t count, const AdamScalars<T> s, const T* gradient, T* m, T* v, T* w) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T g = gradient[i] * s.scale;
    m[i] = s.beta1 * m[i] + s.rest1 * g;
    v[i] = s.beta2 * v[i] + s.rest2 * g * g;
    w[i] = w[i] * s.shrink - s.rate * m[i] / (std::sqrt(v[i]) * s.root + s.epsilon);
  }
}

}  // namespace

template <class T, Isa isa>
void measure_gradient(Cpu<isa>&, const UpdateChunks& chunks, const AdamSettings& settings, const T* gradient,
                      double* squares, StepState* state) {
  parallel_for(chunks.count, 1, [&](std::int64_t c) {
    squares[c] = sum_of_squares(gradient + chunks.chunks[c].first, chunks.chunks[c].count);
  });
  double total = 0;
  for (std::int64_t c = 0; c < chunks.count; ++c) total += squares[c];
  const double mean = 1 / std::max(state->score.examples, 1.0);
  state->gradient_norm = mean * std::sqrt(total);
  const bool is_clipped = settings.clip_norm > 0 && state->gradient_norm > settings.clip_norm;
  const double applied_norm = is_clipped ? settings.clip_norm : state->gradient_norm;
  // The square goes into the second moment and must not overflow there.
  state->is_finite = std::isfinite(state->gradient_norm) && std::isfinite(state->score.loss) &&
                     applied_norm * applied_norm <= static_cast<double>(std::numeric_limits<T>::max());
  if (!state->is_finite) return;
  state->gradient_scale = is_clipped ? mean * settings.clip_norm / state->gradient_norm : mean;
  ++state->updates;
}

template <class T, Isa isa>
void adamw(Cpu<isa>&, const UpdateChunks& chunks, const AdamSettings& settings, const StepState* state,
           const AdamBlocks<T>& blocks) {
  if (!state->is_finite) return;
  const auto count = static_cast<double>(state->updates);
  const double correction1 = 1 - std::pow(state->beta1, count),
               correction2 = 1 - std::pow(settings.beta2, count);
  const AdamScalars<T> scalars{static_cast<T>(state->beta1),
                               static_cast<T>(settings.beta2),
                               static_cast<T>(1 - state->beta1),
                               static_cast<T>(1 - settings.beta2),
                               static_cast<T>(settings.epsilon),
                               T(1),
                               static_cast<T>(state->gradient_scale),
                               static_cast<T>(state->learning_rate / correction1),
                               static_cast<T>(1 / std::sqrt(correction2))};
  AdamScalars<T> decaying = scalars;
  decaying.shrink = static_cast<T>(1 - state->learning_rate * settings.weight_decay);
  parallel_for(chunks.count, 1, [&](std::int64_t c) {
    const UpdateChunk& chunk = chunks.chunks[c];
    update(chunk.count, chunk.decays != 0 ? decaying : scalars, blocks.gradient + chunk.first,
           blocks.m + chunk.first, blocks.v + chunk.first, blocks.w + chunk.first);
    if (blocks.rounded == nullptr) return;
    for (std::int64_t i = chunk.first; i < chunk.first + chunk.count; ++i)
      blocks.rounded[i] = to_bfloat16(static_cast<float>(blocks.w[i]));
  });
}

template <class T, Isa isa>
void average_directions(Cpu<isa>&, const StepState* state, const AveragedRows<T>& rows) {
  if (!state->is_finite) return;
  parallel_for(rows.rows, 16, [&](std::int64_t r) {
    const T* const g = rows.gradient + r * rows.width;
    T* const w = rows.w + r * rows.width;
    const double length = std::sqrt(sum_of_squares(g, rows.width));
    if (!(length > 0 && std::isfinite(length))) return;
    const double step = (1 - rows.decay) / length;
    for (std::int64_t c = 0; c < rows.width; ++c)
      w[c] = static_cast<T>(rows.decay * static_cast<double>(w[c]) - step * static_cast<double>(g[c]));
    const double scale = 1 / std::sqrt(std::max(sum_of_squares(w, rows.width), smallest_square));
    for (std::int64_t c = 0; c < rows.width; ++c) w[c] = static_cast<T>(scale * static_cast<double>(w[c]));
  });
}

#define INSTANTIATE(T)                                                                                  \
  template void measure_gradient<T>(Cpu<TERN_ISA>&, const UpdateChunks&, const AdamSettings&, const T*, \
                                    double*, StepState*);                                               \
  template void adamw<T>(Cpu<TERN_ISA>&, const UpdateChunks&, const AdamSettings&, const StepState*,    \
                         const AdamBlocks<T>&);                                                         \
  template void average_directions<T>(Cpu<TERN_ISA>&, const StepState*, const AveragedRows<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
