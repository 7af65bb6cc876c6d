// Random words of one generated sample: a sequence of its own for every (key, sample), so that a sample depends
// on neither the others nor the number of threads.
#pragma once

#include <cstdint>

#include "tern/random.h"

namespace tern::tasks {

class SampleWords {
 public:
  /// The sample's index fills two words of the counter.
  SampleWords(PhiloxKey key, std::int64_t sample)
      : high_(static_cast<std::uint32_t>(sample >> 32)), stream_{key, &high_}, sample_(sample) {}
  SampleWords(const SampleWords&) = delete;
  SampleWords& operator=(const SampleWords&) = delete;

  std::uint32_t next() {
    if (drawn_ % 4 == 0) words_ = stream_.words(sample_, drawn_ / 4);
    return words_.word[drawn_++ % 4];
  }
  /// Uniform in [0, count); each value's share is off by less than count / 2^32.
  std::uint32_t below(std::uint32_t count) {
    return static_cast<std::uint32_t>((std::uint64_t{next()} * count) >> 32);
  }
  /// Uniform in [0, 1).
  double uniform() { return next() * 0x1p-32; }

 private:
  std::uint32_t high_;
  RandomStream stream_;
  std::int64_t sample_;
  std::uint64_t drawn_ = 0;
  PhiloxWords words_{};
};

}  // namespace tern::tasks
