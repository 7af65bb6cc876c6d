// One row of dropout factors. Internal linkage: compiled once for each instruction set.
#pragma once

#include <cmath>

#include "kernels/dropout.h"

namespace tern::kernels {
namespace {

constexpr int philox_lanes = 16;

/// The four words of blocks first .. first + 15 of a sample's stream, as eight 16-bit slices each.
[[gnu::always_inline]] inline void philox_slices(const RandomStream& stream, std::int64_t sample,
                                                 std::uint64_t first, std::uint16_t* slices) {
  std::uint32_t a[philox_lanes], b[philox_lanes], c[philox_lanes], d[philox_lanes];
  const std::uint32_t step = *stream.step;
  for (int i = 0; i < philox_lanes; ++i) {
    a[i] = static_cast<std::uint32_t>(first + static_cast<unsigned>(i));
    b[i] = static_cast<std::uint32_t>((first + static_cast<unsigned>(i)) >> 32);
    c[i] = static_cast<std::uint32_t>(sample);
    d[i] = step;
  }
  PhiloxKey key = stream.key;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < philox_lanes; ++i) {
      const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * a[i],
                          product1 = std::uint64_t{0xCD9E8D57u} * c[i];
      a[i] = static_cast<std::uint32_t>(product1 >> 32) ^ b[i] ^ key.low;
      b[i] = static_cast<std::uint32_t>(product1);
      c[i] = static_cast<std::uint32_t>(product0 >> 32) ^ d[i] ^ key.high;
      d[i] = static_cast<std::uint32_t>(product0);
    }
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  for (int i = 0; i < philox_lanes; ++i) {
    const std::uint32_t words[4] = {a[i], b[i], c[i], d[i]};
    for (int w = 0; w < 4; ++w) {
      slices[8 * i + 2 * w] = static_cast<std::uint16_t>(words[w]);
      slices[8 * i + 2 * w + 1] = static_cast<std::uint16_t>(words[w] >> 16);
    }
  }
}

/// y[c] = x[c] * factor (+ residual[c]) for the columns of one row.
template <class T>
void dropout_row(const DropoutMask& mask, std::int64_t row, std::int64_t width, const T* x, const T* residual,
                 T* y) {
  const auto threshold = static_cast<std::uint32_t>(std::lround(mask.rate * 65536.0f));
  const T scale = T(65536) / static_cast<T>(65536 - threshold);
  const auto first =
      static_cast<std::uint64_t>(mask.position[row]) * static_cast<std::uint64_t>((width + 7) / 8);
  std::uint16_t slices[8 * philox_lanes];
  for (std::int64_t done = 0; done < width; done += 8 * philox_lanes) {
    philox_slices(mask.stream, mask.sample[row], first + static_cast<std::uint64_t>(done / 8), slices);
    const std::int64_t count = width - done < 8 * philox_lanes ? width - done : 8 * philox_lanes;
    if (residual != nullptr) {
      for (std::int64_t c = 0; c < count; ++c)
        y[done + c] = residual[done + c] + (slices[c] < threshold ? T(0) : x[done + c] * scale);
    } else {
      for (std::int64_t c = 0; c < count; ++c) y[done + c] = slices[c] < threshold ? T(0) : x[done + c] * scale;
    }
  }
}

}  // namespace
}  // namespace tern::kernels
