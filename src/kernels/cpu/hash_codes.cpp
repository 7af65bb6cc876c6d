// Hash codes of rows. Gaussian: lanes run over the bits of all hashes without gaps (a dense bit stream per
// row), from which the codes are cut; a row's sums always run over its columns in order, so codes do not depend
// on blocking.
#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

#include "kernels/cpu/rotations.h"
#include "kernels/cpu/small_product.h"
#include "kernels/cpu/work_items.h"
#include "kernels/hashing.h"

namespace tern::kernels {
namespace {

constexpr int word_bits = 32;              // directions of one panel
constexpr std::int64_t block_tokens = 64;  // tokens hashed against a panel while it is in the first cache

/// A contiguous run of tokens of one head; `first` and `last` count inside the sequence.
struct TokenRange {
  std::int64_t sequence, first, last;
  int head;
};

template <class T, class Code, Isa isa>
struct Hashing {
  using L = Lanes<T, isa>;
  using Product = SmallProduct<T, isa>;
  const Sequences& sequences;
  Heads<const T> x;
  HashShape shape;
  const RandomStream& stream;
  Code* codes;

  Code* place(const TokenRange& range, std::int64_t hash) const {
    return codes + (range.head * static_cast<std::int64_t>(shape.hashes) + hash) * x.tokens +
           sequences.offsets[range.sequence];
  }
};

// ---- Gaussian
// -------------------------------------------------------------------------------------------------------

template <class T, Isa isa>
struct GaussianBuffers {
  GaussianBuffers(Layout& layout, std::int64_t width, std::int64_t panel_count, bool own_directions)
      : panels(panel_count),
        drawn(layout.take<float>(width * word_bits)),
        words(layout.take<std::uint32_t>((panel_count + 1) * block_tokens)),
        directions(own_directions ? layout.take<T>(panel_count * width * word_bits) : nullptr) {}
  void clear() { std::fill_n(words + panels * block_tokens, block_tokens, 0u); }

  std::int64_t panels;
  float* drawn;
  std::uint32_t* words;  ///< [panels + 1][block_tokens]; the last stays zero
  T* directions;         ///< [panels][width][word_bits]
};

template <class T, class Code, Isa isa>
struct GaussianHashing : Hashing<T, Code, isa> {
  using typename Hashing<T, Code, isa>::L;
  using typename Hashing<T, Code, isa>::Product;

  std::int64_t panels() const {
    return (static_cast<std::int64_t>(this->shape.hashes) * this->shape.bits + word_bits - 1) / word_bits;
  }

  /// Draws the directions of one panel, rounds them to bfloat16 (to nearest, ties to even) and transposes them.
  void draw(std::int64_t sequence, int head, std::int64_t panel, float* drawn, T* directions) const {
    const std::int64_t width = this->x.width,
                       total = static_cast<std::int64_t>(this->shape.hashes) * this->shape.bits;
    const std::int64_t count = std::min<std::int64_t>(word_bits, total - panel * word_bits);
    const auto first = static_cast<std::uint64_t>(panel * word_bits * width);
    fill_normal(this->stream, this->sequences.sample[sequence],
                HashDraw::block(HashDraw::directions, head, first),
                std::span<float>(drawn, static_cast<std::size_t>(count * width)));
    std::fill(drawn + count * width, drawn + word_bits * width, 0.0f);
    T* out = directions + panel * width * word_bits;
    for (std::int64_t c = 0; c < width; ++c) {
      for (std::int64_t t = 0; t < word_bits; ++t) {
        const auto bits = __builtin_bit_cast(std::uint32_t, drawn[t * width + c]);
        const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
        out[c * word_bits + t] = static_cast<T>(__builtin_bit_cast(float, rounded));
      }
    }
  }

  /// Sign words of `rows` tokens against one panel.
  template <int rows>
  [[gnu::always_inline]] inline void signs(Strided<T> token, const T* panel, std::uint32_t* words) const {
    constexpr int step = Product::block_vectors * L::count;
    for (int r = 0; r < rows; ++r) words[r] = 0;
    for (int column = 0; column < word_bits; column += step) {
      typename L::Vector sum[rows][Product::block_vectors];
      Product::template block<rows, Product::block_vectors>(this->x.width, token, panel + column, word_bits,
                                                            sum);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < Product::block_vectors; ++v)
          words[r] |= L::positive(sum[r][v]) << (column + v * L::count);
      }
    }
  }

  /// Codes of at most block_tokens tokens.
  void hash_block(const TokenRange& range, const GaussianBuffers<T, isa>& buffers, const T* directions) const {
    const auto& x = this->x;
    const T* data = x.row(this->sequences.offsets[range.sequence] + range.first, range.head);
    const std::int64_t count = range.last - range.first;
    for (std::int64_t panel = 0; panel < buffers.panels; ++panel) {
      std::uint32_t* words = buffers.words + panel * block_tokens;
      const T* columns = directions + panel * x.width * word_bits;
      std::int64_t i = 0;
      for (; i + Product::block_rows <= count; i += Product::block_rows) {
        signs<Product::block_rows>({data + i * x.token_stride, x.token_stride, 1}, columns, words + i);
      }
      for (; i < count; ++i) signs<1>({data + i * x.token_stride, x.token_stride, 1}, columns, words + i);
    }
    cut(range, buffers);
  }

  /// Code r of a token is the field of `bits` bits at r * bits of its sign words.
  void cut(const TokenRange& range, const GaussianBuffers<T, isa>& buffers) const {
    const std::int64_t count = range.last - range.first;
    const std::uint32_t mask = (1u << this->shape.bits) - 1u;
    for (std::int64_t r = 0; r < this->shape.hashes; ++r) {
      const std::int64_t bit = r * this->shape.bits;
      const std::uint32_t* low = buffers.words + bit / word_bits * block_tokens;
      const std::uint32_t* high = low + block_tokens;
      const auto shift = static_cast<int>(bit % word_bits);
      Code* out = this->place(range, r) + range.first;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<Code>(((low[i] >> shift) | ((high[i] << 1) << (31 - shift))) & mask);
      }
    }
  }

  void hash(TokenRange range, const GaussianBuffers<T, isa>& buffers, const T* directions) const {
    for (const std::int64_t last = range.last; range.first < last; range.first += block_tokens) {
      range.last = std::min(last, range.first + block_tokens);
      hash_block(range, buffers, directions);
    }
  }

  /// Enough (sequence, head) pairs: one at a time for each worker.
  void run_by_pair() const {
    for_each_item<isa>(
        this->sequences.count * this->x.heads,
        [&](Layout& layout) { return GaussianBuffers<T, isa>(layout, this->x.width, panels(), true); },
        [&](std::int64_t item, const GaussianBuffers<T, isa>& buffers) {
          const std::int64_t sequence = item / this->x.heads;
          const auto head = static_cast<int>(item % this->x.heads);
          const std::int64_t length = this->sequences.offsets[sequence + 1] - this->sequences.offsets[sequence];
          if (length == 0) return;
          for (std::int64_t p = 0; p < panels(); ++p)
            draw(sequence, head, p, buffers.drawn, buffers.directions);
          hash({sequence, 0, length, head}, buffers, buffers.directions);
        });
  }

  /// Few pairs: all workers share one pair's directions and split its tokens.
  void run_by_range() const {
    const auto make = [&](Layout& layout) {
      return GaussianBuffers<T, isa>(layout, this->x.width, panels(), false);
    };
    const Buffer<T> directions(panels() * this->x.width * word_bits);
    constexpr std::int64_t grain = 8 * block_tokens;
    for (std::int64_t pair = 0; pair < this->sequences.count * this->x.heads; ++pair) {
      const std::int64_t sequence = pair / this->x.heads;
      const auto head = static_cast<int>(pair % this->x.heads);
      const std::int64_t length = this->sequences.offsets[sequence + 1] - this->sequences.offsets[sequence];
      if (length == 0) continue;
      for_each_item<isa>(panels(), make, [&](std::int64_t panel, const GaussianBuffers<T, isa>& buffers) {
        draw(sequence, head, panel, buffers.drawn, directions.data());
      });
      for_each_item<isa>(
          (length + grain - 1) / grain, make, [&](std::int64_t item, const GaussianBuffers<T, isa>& buffers) {
            const std::int64_t first = item * grain;
            hash({sequence, first, std::min(length, first + grain), head}, buffers, directions.data());
          });
    }
  }
};

// ---- Hadamard
// -------------------------------------------------------------------------------------------------------

template <class T, Isa isa>
struct RotationBuffers {
  RotationBuffers(Layout& layout, const RotationPlan<isa>& plan)
      : drawn(layout.take<float>(3 * plan.width)),
        signs(layout.take<T>(3 * plan.rotations * plan.width)),
        input(layout.take<T>(plan.width * Lanes<T, isa>::count)),
        turned(layout.take<T>(plan.width * Lanes<T, isa>::count)),
        codes(layout.take<typename Lanes<T, isa>::Word>(plan.shape.hashes * Lanes<T, isa>::count)) {}
  void clear() {}

  float* drawn;
  T *signs, *input, *turned;
  typename Lanes<T, isa>::Word* codes;
};

template <class T, class Code, Isa isa>
struct RotationHashing : Hashing<T, Code, isa> {
  static constexpr std::int64_t rows = Lanes<T, isa>::count;

  /// A sign is the top bit of its word, that is of a uniform draw.
  void draw(std::int64_t sequence, int head, const RotationPlan<isa>& plan,
            const RotationBuffers<T, isa>& buffers) const {
    for (std::int64_t part = 0; part < plan.rotations; ++part) {
      const std::int64_t first = part * 3 * plan.width;
      fill_uniform(this->stream, this->sequences.sample[sequence],
                   HashDraw::block(HashDraw::signs, head, static_cast<std::uint64_t>(first)),
                   std::span<float>(buffers.drawn, static_cast<std::size_t>(3 * plan.width)));
      for (std::int64_t c = 0; c < 3 * plan.width; ++c)
        buffers.signs[first + c] = buffers.drawn[c] < 0.5f ? T{1} : T{-1};
    }
  }

  void hash(const TokenRange& range, const RotationPlan<isa>& plan,
            const RotationBuffers<T, isa>& buffers) const {
    const Rotations<T, Code, isa> rotations{plan, buffers.signs, buffers.turned, buffers.input, buffers.codes};
    std::fill_n(buffers.input, plan.width * rows, T{});
    const std::int64_t begin = this->sequences.offsets[range.sequence];
    for (std::int64_t first = range.first; first < range.last; first += rows) {
      const std::int64_t count = std::min(rows, range.last - first);
      for (std::int64_t i = 0; i < count; ++i) {
        const T* row = this->x.row(begin + first + i, range.head);
        for (std::int64_t c = 0; c < this->x.width; ++c) buffers.input[c * rows + i] = row[c];
      }
      rotations.run();
      for (std::int64_t r = 0; r < this->shape.hashes; ++r) {
        Code* out = this->place(range, r) + first;
        for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<Code>(buffers.codes[r * rows + i]);
      }
    }
  }

  void run(const RotationPlan<isa>& plan, std::int64_t longest) const {
    // The signs are cheap to draw again, so token ranges are independent items.
    constexpr std::int64_t grain = 4096;
    const std::int64_t ranges = (longest + grain - 1) / grain;
    for_each_item<isa>(
        this->sequences.count * this->x.heads * ranges,
        [&](Layout& layout) { return RotationBuffers<T, isa>(layout, plan); },
        [&](std::int64_t item, const RotationBuffers<T, isa>& buffers) {
          const std::int64_t sequence = item / ranges / this->x.heads, first = item % ranges * grain;
          const std::int64_t length = this->sequences.offsets[sequence + 1] - this->sequences.offsets[sequence];
          const auto head = static_cast<int>(item / ranges % this->x.heads);
          if (first >= length) return;
          draw(sequence, head, plan, buffers);
          hash({sequence, first, std::min(length, first + grain), head}, plan, buffers);
        });
  }
};

}  // namespace

template <class T, class Code, Isa isa>
void hash_codes(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, HashShape shape,
                const RandomStream& stream, Code* codes) {
  if (shape.family != HashFamily::gaussian) {
    std::int64_t longest = 0;
    for (std::int64_t s = 0; s < sequences.count; ++s) {
      longest = std::max<std::int64_t>(longest, sequences.offsets[s + 1] - sequences.offsets[s]);
    }
    const RotationPlan<isa> plan(shape, x.width);
    return RotationHashing<T, Code, isa>{{sequences, x, shape, stream, codes}}.run(plan, longest);
  }
  const GaussianHashing<T, Code, isa> hashing{{sequences, x, shape, stream, codes}};
  if (sequences.count * x.heads >= 2 * threads()) {
    hashing.run_by_pair();
  } else {
    hashing.run_by_range();
  }
}

#define TERN_INSTANTIATE(T, Code)                                                                \
  template void hash_codes<T, Code>(Cpu<TERN_ISA>&, const Sequences&, Heads<const T>, HashShape, \
                                    const RandomStream&, Code*);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
