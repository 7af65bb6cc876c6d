// Bucket numbers: where many codes are possible, those that occur among the sources are numbered 1, 2, ... in
// order of first appearance, so that everything after is linear in the number of tokens. 0 means an empty
// bucket.
#pragma once

#include <cstdint>

#include "tern/device.h"

namespace tern::kernels {

template <class Code, Isa isa>
struct Buckets {
  std::uint32_t* number;  ///< [codes] by code; all zero between hashes
  std::int64_t codes;     ///< 2^bits

  /// With few possible codes the code itself, plus one, is the number, which saves the look-ups.
  bool direct(std::int64_t count) const { return codes <= 2 * count; }
  /// Numbers that `count` sources may need, with 0.
  static std::int64_t most(std::int64_t count) { return 2 * count + 1; }

  /// Numbers the codes of the sources; returns the largest number that may occur.
  std::uint32_t assign(const Code* source, std::int64_t count, std::uint32_t* ids) const {
    if (direct(count)) {
      for (std::int64_t j = 0; j < count; ++j) ids[j] = source[j] + 1u;
      return static_cast<std::uint32_t>(codes);
    }
    std::uint32_t used = 0;
    for (std::int64_t j = 0; j < count; ++j) {
      const std::uint32_t known = number[source[j]];
      used += known == 0;  // no branch: whether a code is new cannot be predicted
      const std::uint32_t id = known == 0 ? used : known;
      number[source[j]] = id;
      ids[j] = id;
    }
    return used;
  }

  /// Numbers of the targets' codes; as many targets as sources.
  void find(const Code* target, std::int64_t count, std::uint32_t* ids) const {
    if (direct(count)) {
      for (std::int64_t i = 0; i < count; ++i) ids[i] = target[i] + 1u;
    } else {
      for (std::int64_t i = 0; i < count; ++i) ids[i] = number[target[i]];
    }
  }

  /// Forgets the numbers of the sources.
  void release(const Code* source, std::int64_t count) const {
    if (direct(count)) return;
    for (std::int64_t j = 0; j < count; ++j) number[source[j]] = 0;
  }
};

}  // namespace tern::kernels
