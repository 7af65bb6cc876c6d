#include "kernels/rotary.h"

#include "base/parallel.h"

namespace tern::kernels {

template <class T, Isa isa>
void rotate_rows(Cpu<isa>&, Heads<const T> x, const Rotation<T>& rotation, T* y) {
  const T direction = rotation.is_inverse ? T(-1) : T(1);
  parallel_for(x.tokens, 64, [&](std::int64_t token) {
    const T* table = rotation.sinusoids + std::int64_t{rotation.position[token]} * x.width;
    for (int head = 0; head < x.heads; ++head) {
      const T* from = x.row(token, head);
      T* to = y + (token * x.heads + head) * x.width;
      for (int c = 0; c < x.width; c += 2) {
        const T sine = direction * table[c], cosine = table[c + 1], even = from[c], odd = from[c + 1];
        to[c] = even * cosine - odd * sine;
        to[c + 1] = even * sine + odd * cosine;
      }
    }
  });
}

#define INSTANTIATE(T) template void rotate_rows<T>(Cpu<TERN_ISA>&, Heads<const T>, const Rotation<T>&, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
