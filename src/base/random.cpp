// Stream keys and bulk draws. Compiled without floating-point contraction (see CMakeLists.txt).
#include "tern/random.h"

#include <bit>
#include <cmath>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tern {
namespace {

constexpr int lanes = 16;  // blocks drawn together, so that the loops below vectorize

/// ln(u) for u in (0, 1): exponent and mantissa in [sqrt(1/2), sqrt(2)), then a polynomial of degree 9 in
/// mantissa - 1 (coefficients: Moshier, Cephes, logf; relative error below 2e-7).
inline float natural_log(float u) {
  const auto bits = std::bit_cast<std::uint32_t>(u);
  const std::uint32_t shifted = bits - 0x3F3504F3u;
  const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float x = std::bit_cast<float>((shifted & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  return x - 0.5f * x * x + p * x * x * x + exponent * 0.69314718056f;
}

/// One Box-Muller pair: radius from `first`, angle from `second` (quadrant in its top two bits).
inline void normal_pair(std::uint32_t first, std::uint32_t second, float& a, float& b) {
  const float radius = std::sqrt(-2.0f * natural_log(to_uniform(first)));
  // x in (-pi/4, pi/4): the angle inside its quadrant, minus pi/4
  const float x =
      (static_cast<float>((second & 0x3FFFFFFFu) >> 7) + 0.5f) * (0x1p-23f * 1.57079632679f) - 0.78539816340f;
  const float y = x * x;
  const float sine = x + x * y * (-1.6666654611e-1f + y * (8.3321608736e-3f - y * 1.9515295891e-4f));
  const float cosine =
      1.0f - 0.5f * y + y * y * (4.166664568e-2f + y * (-1.388731625e-3f + y * 2.443315711e-5f));
  const bool swapped = (second & 0x40000000u) != 0, negative = (second & 0x80000000u) != 0;
  const float u = swapped ? -sine : cosine, v = swapped ? cosine : sine;
  a = radius * (negative ? -u : u);
  b = radius * (negative ? -v : v);
}

template <class Convert>
void fill(const RandomStream& stream, std::int64_t sample, std::uint64_t block, std::span<float> out,
          Convert convert) {
  PhiloxWords words[lanes];
  float drawn[4 * lanes];
  for (std::size_t done = 0; done < out.size(); done += 4 * lanes, block += lanes) {
    for (int lane = 0; lane < lanes; ++lane)
      words[lane] = stream.words(sample, block + static_cast<unsigned>(lane));
    for (int lane = 0; lane < lanes; ++lane) convert(words[lane], drawn + 4 * lane);
    const std::size_t count = std::min<std::size_t>(4 * lanes, out.size() - done);
    for (std::size_t i = 0; i < count; ++i) out[done + i] = drawn[i];
  }
}

}  // namespace

PhiloxKey stream_key(std::uint64_t seed, std::string_view path) {
  const std::uint64_t mixed = XXH3_64bits_withSeed(path.data(), path.size(), seed);
  return {static_cast<std::uint32_t>(mixed), static_cast<std::uint32_t>(mixed >> 32)};
}

void fill_normal(const RandomStream& stream, std::int64_t sample, std::uint64_t first_block,
                 std::span<float> out) {
  fill(stream, sample, first_block, out, [](const PhiloxWords& words, float* drawn) {
    normal_pair(words.word[0], words.word[1], drawn[0], drawn[1]);
    normal_pair(words.word[2], words.word[3], drawn[2], drawn[3]);
  });
}

void fill_uniform(const RandomStream& stream, std::int64_t sample, std::uint64_t first_block,
                  std::span<float> out) {
  fill(stream, sample, first_block, out, [](const PhiloxWords& words, float* drawn) {
    for (int i = 0; i < 4; ++i) drawn[i] = to_uniform(words.word[i]);
  });
}

}  // namespace tern
