#include <cstdlib>

#include <unistd.h>

#include "app/commands.h"

namespace {

/// Threads that wait for others spin before they sleep, by default so long that two runs on the same cores take
/// six times as long as one. The OpenMP library reads its settings before main(), so the program starts itself
/// again.
void shorten_spinning(char** values) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 1);
  execv("/proc/self/exe", values);  // returns only where it cannot; the defaults work too
}

}  // namespace

int main(int count, char** values) {
  shorten_spinning(values);
  return tern::app::run({values + 1, values + count});
}
