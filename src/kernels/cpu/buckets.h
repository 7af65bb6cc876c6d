// Dense bucket numbers: the codes that occur among the sources are numbered 1, 2, ... in order of first appearance, so
// that everything after is linear in the number of tokens however many codes are possible. 0 means an empty bucket.
#pragma once

#include <cstdint>

#include "tern/device.h"

namespace tern::kernels {

template <class Code, Isa isa>
struct Buckets {
  std::uint32_t* number;  ///< [2^bits] by code; all zero between hashes

  /// Numbers the codes of the sources; returns how many differ.
  std::uint32_t assign(const Code* codes, std::int64_t count, std::uint32_t* ids) const {
    std::uint32_t used = 0;
    for (std::int64_t j = 0; j < count; ++j) {
      const std::uint32_t known = number[codes[j]];
      used += known == 0;  // no branch: whether a code is new cannot be predicted
      const std::uint32_t id = known == 0 ? used : known;
      number[codes[j]] = id;
      ids[j] = id;
    }
    return used;
  }

  void find(const Code* codes, std::int64_t count, std::uint32_t* ids) const {
    for (std::int64_t i = 0; i < count; ++i) ids[i] = number[codes[i]];
  }

  void release(const Code* codes, std::int64_t count) const {
    for (std::int64_t j = 0; j < count; ++j) number[codes[j]] = 0;
  }
};

}  // namespace tern::kernels
