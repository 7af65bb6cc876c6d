// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3", section 3.3), one implementation for host and device. A draw depends on nothing but its coordinates
//
//   key     = (run seed, site: the module path and purpose)
//   counter = (block inside the sample, data set index of the sample, step)
//
// so packing, micro-batches, ranks, threads and resumes cannot change it. One block is four 32-bit words.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#ifdef __CUDACC__
#define TERN_HOST_DEVICE __host__ __device__
#else
#define TERN_HOST_DEVICE
#endif

namespace tern {

struct PhiloxKey {
  std::uint32_t low = 0, high = 0;
};
struct PhiloxWords {
  std::uint32_t word[4];
};

/// Ten rounds of Philox4x32.
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr PhiloxWords philox(PhiloxWords counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.low,
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.high,
                static_cast<std::uint32_t>(product0)}};
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  return counter;
}

/// The stream of one site. `step` is read at every draw through a pointer, so that a captured graph can advance
/// it. It must not change between a forward pass and its backward pass, which draws the same numbers again.
struct RandomStream {
  PhiloxKey key;
  const std::uint32_t* step = nullptr;

  /// Block `block` of sample `sample` (data set index; its low 32 bits count).
  [[gnu::always_inline]] TERN_HOST_DEVICE PhiloxWords words(std::int64_t sample, std::uint64_t block) const {
    return philox({{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                    static_cast<std::uint32_t>(sample), *step}},
                  key);
  }
};

/// Key of the site named by `path` (such as "encoder.layers.0.dropout") under the run's seed.
PhiloxKey stream_key(std::uint64_t seed, std::string_view path);

/// Uniform in (0, 1): the middle of one of 2^23 cells.
[[gnu::always_inline]] TERN_HOST_DEVICE constexpr float to_uniform(std::uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

/// Fills `out` with standard normals (Box-Muller on this project's own polynomials, evaluated without
/// contraction, so that every device draws the same bits) from blocks `first_block`, `first_block` + 1, ...:
/// four a block.
void fill_normal(const RandomStream& stream, std::int64_t sample, std::uint64_t first_block,
                 std::span<float> out);

/// Fills `out` with uniforms in (0, 1), four a block.
void fill_uniform(const RandomStream& stream, std::int64_t sample, std::uint64_t first_block,
                  std::span<float> out);

}  // namespace tern
