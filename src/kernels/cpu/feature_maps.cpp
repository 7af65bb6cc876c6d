#include "kernels/feature_maps.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "kernels/cpu/math.h"

namespace tern::kernels {

template <class T, Isa isa>
void elu_plus_one_forward(Cpu<isa>&, Heads<const T> x, T* y) {
  parallel_for(x.tokens, 64, [&](std::int64_t token) {
    for (int head = 0; head < x.heads; ++head) {
      const T* from = x.row(token, head);
      T* to = y + (token * x.heads + head) * x.width;
      for (int c = 0; c < x.width; ++c) to[c] = from[c] > 0 ? from[c] + 1 : exponential(from[c]);
    }
  });
}

template <class T, Isa isa>
void elu_plus_one_backward(Cpu<isa>&, std::int64_t count, const T* y, const T* dy, T* dx) {
  constexpr std::int64_t block = 4096;
  parallel_for((count + block - 1) / block, 1, [&](std::int64_t b) {
    const std::int64_t end = std::min(count, (b + 1) * block);
    for (std::int64_t i = b * block; i < end; ++i) dx[i] = (y[i] > 1 ? T(1) : y[i]) * dy[i];
  });
}

template <class T, Isa isa>
void taylor_features_forward(Cpu<isa>&, Heads<const T> x, T* y) {
  const int count = taylor_feature_count(x.width);
  const T second = T(1) / std::sqrt(static_cast<T>(x.width)), first = std::sqrt(second),
          own = second / std::sqrt(T(2));
  parallel_for(x.tokens, 16, [&](std::int64_t token) {
    for (int head = 0; head < x.heads; ++head) {
      const T* from = x.row(token, head);
      T* to = y + (token * x.heads + head) * count;
      T* const end = to + count;
      *to++ = 1;
      for (int i = 0; i < x.width; ++i) *to++ = first * from[i];
      for (int i = 0; i < x.width; ++i) {
        *to++ = own * from[i] * from[i];
        for (int j = i + 1; j < x.width; ++j) *to++ = second * from[i] * from[j];
      }
      std::fill(to, end, T(0));
    }
  });
}

template <class T, Isa isa>
void taylor_features_backward(Cpu<isa>&, Heads<const T> x, const T* dy, T* dx) {
  const int count = taylor_feature_count(x.width);
  const T second = T(1) / std::sqrt(static_cast<T>(x.width)), first = std::sqrt(second),
          own = second * std::sqrt(T(2));
  parallel_for(x.tokens, 16, [&](std::int64_t token) {
    for (int head = 0; head < x.heads; ++head) {
      const std::int64_t row = token * x.heads + head;
      const T *from = x.row(token, head), *slope = dy + row * count + 1;
      T* to = dx + row * x.width;
      for (int i = 0; i < x.width; ++i) to[i] = first * *slope++;
      for (int i = 0; i < x.width; ++i) {
        to[i] += own * *slope++ * from[i];
        for (int j = i + 1; j < x.width; ++j, ++slope) {
          to[i] += second * *slope * from[j];
          to[j] += second * *slope * from[i];
        }
      }
    }
  });
}

#define INSTANTIATE(T)                                                                          \
  template void elu_plus_one_forward<T>(Cpu<TERN_ISA>&, Heads<const T>, T*);                    \
  template void elu_plus_one_backward<T>(Cpu<TERN_ISA>&, std::int64_t, const T*, const T*, T*); \
  template void taylor_features_forward<T>(Cpu<TERN_ISA>&, Heads<const T>, T*);                 \
  template void taylor_features_backward<T>(Cpu<TERN_ISA>&, Heads<const T>, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
