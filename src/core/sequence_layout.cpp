#include "tern/sequence_layout.h"

#include <algorithm>
#include <numeric>

namespace tern {
namespace {

void require_offsets(const std::vector<std::int32_t>& offsets, std::int64_t sequences, std::int64_t tokens) {
  require(static_cast<std::int64_t>(offsets.size()) == sequences + 1 && offsets.front() == 0 &&
              offsets.back() == tokens,
          "sequence layout: {} sequences need {} offsets from 0 to {}, got {} offsets", sequences,
          sequences + 1, tokens, offsets.size());
  for (std::size_t s = 1; s < offsets.size(); ++s)
    require(offsets[s - 1] <= offsets[s], "sequence layout: offsets must not fall, got {} before {}",
            offsets[s - 1], offsets[s]);
}

void require_positions(const LayoutArrays& layout) {
  for (std::size_t s = 0; s < layout.sample.size(); ++s)
    for (std::int32_t token = layout.offsets[s] + 1; token < layout.offsets[s + 1]; ++token) {
      const auto here = static_cast<std::size_t>(token);
      require(layout.position[here - 1] < layout.position[here],
              "sequence layout: positions must rise inside a sequence, got {} before {}",
              layout.position[here - 1], layout.position[here]);
    }
  for (const std::int32_t place : layout.position)
    require(place >= 0 && place < layout.padded_length,
            "sequence layout: positions must lie in [0, {}), got {}", layout.padded_length, place);
}

}  // namespace

LayoutArrays arrange_sequences(const std::vector<std::int32_t>& offsets,
                               const std::vector<std::int32_t>& position,
                               const std::vector<std::int64_t>& sample, std::int64_t padded_length,
                               std::int64_t capacity) {
  const auto sequences = static_cast<std::int64_t>(sample.size()),
             tokens = static_cast<std::int64_t>(position.size());
  require(capacity == 0 || capacity >= tokens, "sequence layout: a capacity of {} rows does not hold {} tokens",
          capacity, tokens);
  require_offsets(offsets, sequences, tokens);
  LayoutArrays out{offsets, position, {}, sample, {}, 0, 0, padded_length};
  require_positions(out);
  const auto rows = static_cast<std::size_t>(std::max(capacity, tokens));
  out.position.resize(rows, 0);
  out.token_sample.assign(rows, 0);
  const auto length = [&](std::size_t s) { return std::int64_t{offsets[s + 1]} - offsets[s]; };
  out.shortest = sequences > 0 ? tokens : 0;
  for (std::size_t s = 0; s < sample.size(); ++s) {
    out.longest = std::max(out.longest, length(s));
    out.shortest = std::min(out.shortest, length(s));
    std::fill(out.token_sample.begin() + offsets[s], out.token_sample.begin() + offsets[s + 1], sample[s]);
  }
  out.order.resize(sample.size());
  std::iota(out.order.begin(), out.order.end(), 0);
  std::stable_sort(out.order.begin(), out.order.end(), [&](std::int32_t a, std::int32_t b) {
    return length(static_cast<std::size_t>(a)) > length(static_cast<std::size_t>(b));
  });
  return out;
}

SequenceLayout make_layout(const LayoutArrays& arrays, Device device) {
  const auto placed = [device](const auto& values) {
    return from_vector(values, {static_cast<std::int64_t>(values.size())}, device);
  };
  return {placed(arrays.offsets),      placed(arrays.position), placed(arrays.sample), placed(arrays.order),
          placed(arrays.token_sample), arrays.longest,          arrays.shortest,       arrays.padded_length};
}

}  // namespace tern
