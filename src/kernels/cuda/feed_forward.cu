// Deterministic where the products are. Any width: products of cuBLASLt with one pass over the hidden rows
// between them each way. Small widths in bfloat16 take one kernel each way (feed_forward_fused.h).
#include "kernels/cuda/activation.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/feed_forward_fused.h"
#include "kernels/feed_forward.h"
#include "kernels/matmul.h"

namespace tern::kernels {
namespace {

template <class T>
Rows<const T> hidden_rows(const T* data, std::int64_t rows, std::int64_t hidden) {
  return {data, rows, hidden, hidden};
}
template <class T>
bool takes_fused(const Cuda& cuda, Rows<const T> x, const FeedForwardWeights<T>& weights, const T* dy,
                 const T* out) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return has_fused_feed_forward(cuda, weights.width, weights.hidden) && is_fusable(x, weights, dy, out);
  return false;
}

}  // namespace

template <class T>
void feed_forward_forward(Cuda& cuda, Rows<const T> x, const FeedForwardWeights<T>& weights,
                          const DropoutMask& mask, T* before, T* y) {
  if (x.rows == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>)
    if (before == nullptr && takes_fused<T>(cuda, x, weights, y, y))
      return fused_feed_forward(cuda, x, weights, mask, y);
  const std::int64_t hidden = weights.hidden;
  const Scratch<T> activated(cuda, x.rows * hidden);
  T* const sums = before != nullptr ? before : activated.data();
  linear_forward<T>(cuda, x, weights.up, nullptr, hidden, Activation::none, nullptr, sums);
  activate<T>(cuda, {x.rows, hidden, Activation::gelu, sums, weights.up_bias, &mask, before, activated.data()});
  linear_forward<T>(cuda, hidden_rows<T>(activated.data(), x.rows, hidden), weights.down, weights.down_bias,
                    weights.width, Activation::none, nullptr, y);
}

template <class T>
void feed_forward_backward(Cuda& cuda, Rows<const T> x, const FeedForwardWeights<T>& weights,
                           const DropoutMask& mask, const T* before, const T* dy, T* dx,
                           const FeedForwardGradients<T>& gradients) {
  if (x.rows == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>)
    if (before == nullptr && takes_fused<T>(cuda, x, weights, dy, dx))
      return fused_feed_forward_backward(cuda, x, weights, mask, dy, dx, gradients);
  const std::int64_t hidden = weights.hidden, count = x.rows * hidden;
  const Scratch<T> sums(cuda, before != nullptr ? 0 : count), activated(cuda, count), slope(cuda, count);
  if (before == nullptr) {
    linear_forward<T>(cuda, x, weights.up, weights.up_bias, hidden, Activation::none, nullptr, sums.data());
    before = sums.data();
  }
  const Rows<const T> kept = hidden_rows<T>(activated.data(), x.rows, hidden);
  linear_backward<T>(cuda, kept, weights.down, weights.width, Activation::none, nullptr, dy, slope.data(),
                     nullptr, nullptr);
  activation_backward<T>(cuda, {x.rows, hidden, Activation::gelu, before, &mask, slope.data(), slope.data(),
                                activated.data(), gradients.up_bias});
  linear_backward<T>(cuda, kept, weights.down, weights.width, Activation::none, nullptr, dy, nullptr,
                     gradients.down, gradients.down_bias);
  linear_backward<T>(cuda, x, weights.up, hidden, Activation::none, nullptr, slope.data(), dx, gradients.up,
                     nullptr);
}

template <class T>
bool recomputes_feed_forward(Cuda& cuda, std::int64_t width, std::int64_t hidden) {
  return std::is_same_v<T, bfloat16> && has_fused_feed_forward(cuda, width, hidden);
}

#define INSTANTIATE(T)                                                                       \
  template void feed_forward_forward<T>(Cuda&, Rows<const T>, const FeedForwardWeights<T>&,  \
                                        const DropoutMask&, T*, T*);                         \
  template void feed_forward_backward<T>(Cuda&, Rows<const T>, const FeedForwardWeights<T>&, \
                                         const DropoutMask&, const T*, const T*, T*,         \
                                         const FeedForwardGradients<T>&);                    \
  template bool recomputes_feed_forward<T>(Cuda&, std::int64_t, std::int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
