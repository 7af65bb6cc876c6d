#include "kernels/feed_forward.h"

#include "kernels/cpu/scratch.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace tern::kernels {
namespace {

template <class T>
Rows<const T> hidden_rows(const T* data, std::int64_t rows, std::int64_t hidden) {
  return {data, rows, hidden, hidden};
}

}  // namespace

template <class T, Isa isa>
void feed_forward_forward(Cpu<isa>& cpu, Rows<const T> x, const FeedForwardWeights<T>& weights,
                          const DropoutMask& mask, T* before, T* y) {
  const Buffer<T> activated(x.rows * weights.hidden);
  const Rows<const T> kept = hidden_rows<T>(activated.data(), x.rows, weights.hidden);
  linear_forward(cpu, x, weights.up, weights.up_bias, weights.hidden, Activation::gelu, before,
                 activated.data());
  if (mask.rate > 0) dropout(cpu, kept, mask, activated.data());
  linear_forward(cpu, kept, weights.down, weights.down_bias, weights.width, Activation::none,
                 static_cast<T*>(nullptr), y);
}

template <class T, Isa isa>
void feed_forward_backward(Cpu<isa>& cpu, Rows<const T> x, const FeedForwardWeights<T>& weights,
                           const DropoutMask& mask, const T* before, const T* dy, T* dx,
                           const FeedForwardGradients<T>& gradients) {
  const std::int64_t hidden = weights.hidden;
  const Buffer<T> activated(x.rows * hidden), slope(x.rows * hidden);
  const Rows<const T> kept = hidden_rows<T>(activated.data(), x.rows, hidden);
  unary_forward(cpu, Unary::gelu, x.rows * hidden, before, activated.data());
  if (mask.rate > 0) dropout(cpu, kept, mask, activated.data());
  linear_backward(cpu, kept, weights.down, weights.width, Activation::none, static_cast<const T*>(nullptr), dy,
                  slope.data(), gradients.down, gradients.down_bias);
  if (mask.rate > 0) dropout(cpu, hidden_rows<T>(slope.data(), x.rows, hidden), mask, slope.data());
  linear_backward(cpu, x, weights.up, hidden, Activation::gelu, before, static_cast<const T*>(slope.data()), dx,
                  gradients.up, gradients.up_bias);
}

#define INSTANTIATE(T)                                                                                \
  template void feed_forward_forward<T>(Cpu<TERN_ISA>&, Rows<const T>, const FeedForwardWeights<T>&,  \
                                        const DropoutMask&, T*, T*);                                  \
  template void feed_forward_backward<T>(Cpu<TERN_ISA>&, Rows<const T>, const FeedForwardWeights<T>&, \
                                         const DropoutMask&, const T*, const T*, T*,                  \
                                         const FeedForwardGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
