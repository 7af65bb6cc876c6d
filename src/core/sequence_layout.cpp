#include "tern/sequence_layout.h"

#include <algorithm>

namespace tern {

SequenceLayout make_layout(const std::vector<std::int32_t>& offsets, const std::vector<std::int32_t>& position,
                           const std::vector<std::int64_t>& sample, std::int64_t padded_length, Device device) {
  const auto sequences = static_cast<std::int64_t>(sample.size()),
             tokens = static_cast<std::int64_t>(position.size());
  require(offsets.size() == sample.size() + 1 && offsets.front() == 0 && offsets.back() == tokens,
          "sequence layout: {} sequences need {} offsets from 0 to {}, got {} offsets", sequences,
          sequences + 1, tokens, offsets.size());
  // Before anything is written: rising offsets that end at `tokens` lie inside the arrays.
  for (std::size_t s = 0; s < sample.size(); ++s)
    require(offsets[s] <= offsets[s + 1], "sequence layout: offsets must not fall, got {} before {}",
            offsets[s], offsets[s + 1]);
  std::vector<std::int64_t> token_sample(position.size());
  std::int64_t longest = 0;
  for (std::size_t s = 0; s < sample.size(); ++s) {
    longest = std::max<std::int64_t>(longest, offsets[s + 1] - offsets[s]);
    for (std::int32_t token = offsets[s] + 1; token < offsets[s + 1]; ++token) {
      const auto here = static_cast<std::size_t>(token);
      require(position[here - 1] < position[here],
              "sequence layout: positions must rise inside a sequence, got {} before {}", position[here - 1],
              position[here]);
    }
    std::fill(token_sample.begin() + offsets[s], token_sample.begin() + offsets[s + 1], sample[s]);
  }
  for (const std::int32_t place : position)
    require(place >= 0 && place < padded_length, "sequence layout: positions must lie in [0, {}), got {}",
            padded_length, place);
  return {from_vector(offsets, {sequences + 1}, device),
          from_vector(position, {tokens}, device),
          from_vector(sample, {sequences}, device),
          from_vector(token_sample, {tokens}, device),
          longest,
          padded_length};
}

}  // namespace tern
