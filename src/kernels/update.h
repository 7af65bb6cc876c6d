// The update of flat parameter blocks (float32 or float64); deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"
#include "tern/step_state.h"

namespace tern::kernels {

/// A piece of one parameter inside the flat block.
struct UpdateChunk {
  std::int64_t first, count;
  std::int32_t parameter;  ///< its place in the flat block's order
  std::int32_t decays;     ///< whether weight decay applies
};
/// Chunks in the order of the flat block; on CUDA the array lies in device memory.
struct UpdateChunks {
  const UpdateChunk* chunks;
  std::int64_t count;
};

struct AdamSettings {
  double beta2, epsilon, weight_decay;
  double clip_norm;  ///< 0 = no clipping
};

/// squares[c] = sum of squares of chunk c's gradient, in double. Then in `state`: gradient_norm of the mean
/// gradient (divided by score.examples), gradient_scale = 1 / examples times the clip factor, is_finite =
/// whether the loss and all gradients are finite and their scaled squares fit T; where finite, updates + 1.
template <class T, Isa isa>
void measure_gradient(Cpu<isa>&, const UpdateChunks& chunks, const AdamSettings& settings, const T* gradient,
                      double* squares, StepState* state);
template <class T>
void measure_gradient(Cuda&, const UpdateChunks& chunks, const AdamSettings& settings, const T* gradient,
                      double* squares, StepState* state);

/// One AdamW step (Loshchilov and Hutter 2019, algorithm 2), as PyTorch writes it:
///   w -= rate * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
///   w -= rate / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + epsilon)   with g = gradient_scale * gradient
/// and t = state.updates. Nothing changes unless state.is_finite.
template <class T>
struct AdamBlocks {
  const T* gradient;
  T *m, *v, *w;
  bfloat16* rounded;  ///< w in bfloat16, where it is not null
};
template <class T, Isa isa>
void adamw(Cpu<isa>&, const UpdateChunks& chunks, const AdamSettings& settings, const StepState* state,
           const AdamBlocks<T>& blocks);
template <class T>
void adamw(Cuda&, const UpdateChunks& chunks, const AdamSettings& settings, const StepState* state,
           const AdamBlocks<T>& blocks);

/// Rows of length 1, each a moving average of the directions against its gradient g:
///   w = u / |u|  with  u = decay w - (1 - decay) g / |g|
/// A row whose gradient is 0 or not finite stays, and all rows unless state.is_finite. Sums in double.
template <class T>
struct AveragedRows {
  std::int64_t rows, width;
  double decay;
  const T* gradient;
  T* w;
};
template <class T, Isa isa>
void average_directions(Cpu<isa>&, const StepState* state, const AveragedRows<T>& rows);
template <class T>
void average_directions(Cuda&, const StepState* state, const AveragedRows<T>& rows);

}  // namespace tern::kernels
