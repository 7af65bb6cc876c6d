// The only place that starts threads for computation.
#pragma once

#include <cstdint>

#include <omp.h>

namespace tern {

/// Runs body(i) for i in [0, count) on all threads, in unspecified order; `grain` indices are handed out at a
/// time. body must not throw. A call from inside a parallel region runs serially.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  if (count <= grain || omp_in_parallel()) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, grain)
  for (std::int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace tern
