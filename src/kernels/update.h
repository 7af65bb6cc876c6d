// Updates of flat parameter blocks; deterministic.
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Sum of squares in double, in fixed chunks.
template <class T, Isa isa>
double sum_of_squares(Cpu<isa>&, std::int64_t count, const T* x);

/// One AdamW step (Loshchilov and Hutter 2019, algorithm 2), as PyTorch writes it:
///   w -= rate * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
///   w -= rate / correction1 * m / (sqrt(v) / sqrt(correction2) + epsilon)   with g = gradient_scale *
///   gradient.
struct AdamStep {
  double rate, beta1, beta2, epsilon, weight_decay, correction1, correction2, gradient_scale;
};
template <class T, Isa isa>
void adamw(Cpu<isa>&, std::int64_t count, const AdamStep& step, const T* gradient, T* m, T* v, T* w);

}  // namespace tern::kernels
