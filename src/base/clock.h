// Time that passes, as runs and benchmarks measure it.
#pragma once

#include <chrono>

namespace tern {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

}  // namespace tern
