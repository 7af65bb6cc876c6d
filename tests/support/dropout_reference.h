// Dropout masks drawn again from the stream's words, by the rule that kernels/dropout.h states.
#pragma once

#include "support/array.h"
#include "tern/ops.h"

namespace tern::test {

/// The factor of each entry of a [rows, width] array: 0, or the inverse of the exact keep rate.
inline Array dropout_factors(const Shape& shape, const RowCoordinates& rows, const DropoutOptions& options) {
  Array out(shape, 1);
  const std::vector<std::int64_t> sample = rows.sample.to_vector<std::int64_t>();
  const std::vector<std::int32_t> position = rows.position.to_vector<std::int32_t>();
  const auto threshold = static_cast<std::uint32_t>(std::lround(options.rate * 65536));
  const std::int64_t width = shape[1];
  for (std::int64_t i = 0; threshold > 0 && i < out.count(); ++i) {
    const auto row = static_cast<std::size_t>(i / width);
    const std::int64_t column = i % width;
    const std::uint32_t word = options.stream
                                   .words(sample[row], static_cast<std::uint64_t>(position[row]) << 24 |
                                                           static_cast<std::uint64_t>(column / 8))
                                   .word[column % 8 / 2];
    const std::uint32_t drawn = column % 2 == 0 ? word & 0xFFFF : word >> 16;
    out[i] = drawn < threshold ? 0 : 65536.0 / (65536.0 - threshold);
  }
  return out;
}

}  // namespace tern::test
