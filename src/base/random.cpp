// Stream keys and bulk draws. Compiled without floating-point contraction (see CMakeLists.txt).
#include "tern/random.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/normal.h"

namespace tern {
namespace {

constexpr int lanes = 16;  // blocks drawn together, so that the loops below vectorize

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
  fill(stream, sample, first_block, out,
       [](const PhiloxWords& words, float* drawn) { normals_of(words, drawn); });
}

void fill_uniform(const RandomStream& stream, std::int64_t sample, std::uint64_t first_block,
                  std::span<float> out) {
  fill(stream, sample, first_block, out, [](const PhiloxWords& words, float* drawn) {
    for (int i = 0; i < 4; ++i) drawn[i] = to_uniform(words.word[i]);
  });
}

}  // namespace tern
