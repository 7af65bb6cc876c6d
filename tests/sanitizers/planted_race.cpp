// A loop whose iterations add to one number: the thread sanitizer must end this program with an error.
#include <chrono>
#include <thread>

#include "base/parallel.h"

int main() {
  omp_set_num_threads(4);
  long sum = 0;
  tern::parallel_for(200, 1, [&](std::int64_t i) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));  // so that all threads take part
    sum += i;
  });
  return sum < 0 ? 1 : 0;
}
