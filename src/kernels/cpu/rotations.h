// Codes from randomized Hadamard rotations: lanes run over rows, one vector per coordinate.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/hashing.h"

namespace tern::kernels {

/// Which coordinate of which rotation is bit `bit` of hash `hash`.
template <Isa isa>
struct RotationPlan {
  RotationPlan(HashShape asked, std::int64_t head_width) : shape(asked) {
    while (width < head_width) width *= 2;
    if (shape.family == HashFamily::hadamard) {
      const std::int64_t each = width / shape.bits;
      rotations = (shape.hashes + each - 1) / each;
    } else {
      const std::int64_t columns = static_cast<std::int64_t>(shape.hashes) * shape.bits;
      rotations = std::max<std::int64_t>(shape.bits, (columns + width - 1) / width);
    }
  }

  HashShape shape;
  std::int64_t width = 32;
  std::int64_t rotations = 0;
};

template <class T, class Code, Isa isa>
struct Rotations {
  using L = Lanes<T, isa>;
  using Vector = typename L::Vector;
  using Words = typename L::Words;
  static constexpr int rows = L::count;  ///< rows hashed together

  const RotationPlan<isa>& plan;
  const T* signs;           ///< [rotations][3][width] of +-1
  T* turned;                ///< [width][lanes]
  T* input;                 ///< [width][lanes], the rows transposed, zeros beyond the head width
  typename L::Word* codes;  ///< [hashes][lanes]

  /// Fills `codes` with the codes of the rows in `input`.
  void run() const {
    const HashShape shape = plan.shape;
    auto* words = codes;
    std::fill_n(words, shape.hashes * rows, typename L::Word{});
    for (std::int64_t part = 0; part < plan.rotations; ++part) {
      turn(signs + part * 3 * plan.width);
      if (shape.family == HashFamily::hadamard) {
        const std::int64_t each = plan.width / shape.bits;
        const std::int64_t first = part * each, last = std::min<std::int64_t>(shape.hashes, first + each);
        for (std::int64_t r = first; r < last; ++r) {
          for (int t = 0; t < shape.bits; ++t) mark(words, r, t, (r - first) * shape.bits + t);
        }
      } else {
        const std::int64_t columns = static_cast<std::int64_t>(shape.hashes) * shape.bits;
        for (std::int64_t column = part, c = 0; column < columns; column += plan.rotations, ++c) {
          mark(words, column / shape.bits, static_cast<int>(column % shape.bits), c);
        }
      }
    }
  }

 private:
  [[gnu::always_inline]] inline void mark(typename L::Word* words, std::int64_t hash, int bit,
                                          std::int64_t coordinate) const {
    const Vector z = L::load(turned + coordinate * rows);
    const Words set = (z > Vector{}) & (typename L::Word{1} << bit);
    typedef typename L::Word Unaligned __attribute__((vector_size(L::bytes), aligned(8), may_alias));
    auto* place = reinterpret_cast<Unaligned*>(words + hash * rows);
    *place |= set;
  }

  /// turned = H D3 H D2 H D1 input, H the unnormalized Walsh-Hadamard matrix.
  void turn(const T* sign) const {
    const T* from = input;
    for (int round = 0; round < 3; ++round, sign += plan.width, from = turned) {
      for (std::int64_t c = 0; c < plan.width; ++c) {
        L::store(turned + c * rows, L::load(from + c * rows) * sign[c]);
      }
      std::int64_t half = 1;
      for (; half * 8 <= plan.width; half *= 8) stage<8>(half);
      if (half * 4 <= plan.width) {
        stage<4>(half);
        half *= 4;
      }
      if (half * 2 <= plan.width) stage<2>(half);
    }
  }

  /// log2(points) stages of butterflies at once, on coordinates `half` apart.
  template <int points>
  void stage(std::int64_t half) const {
    for (std::int64_t base = 0; base < plan.width; base += points * half) {
      for (std::int64_t c = base; c < base + half; ++c) {
        Vector z[points];
#pragma GCC unroll 8
        for (int p = 0; p < points; ++p) z[p] = L::load(turned + (c + p * half) * rows);
#pragma GCC unroll 3
        for (int step = 1; step < points; step *= 2) {
#pragma GCC unroll 8
          for (int p = 0; p < points; ++p) {
            if ((p & step) != 0) continue;
            const Vector a = z[p], b = z[p + step];
            z[p] = a + b;
            z[p + step] = a - b;
          }
        }
#pragma GCC unroll 8
        for (int p = 0; p < points; ++p) L::store(turned + (c + p * half) * rows, z[p]);
      }
    }
  }
};

}  // namespace tern::kernels
