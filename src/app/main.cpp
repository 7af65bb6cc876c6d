#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "app/commands.h"
#include "tern/error.h"

namespace {

/// Libraries read these settings before main(), so where one is missing the program sets it and starts itself
/// again. Threads that wait for others spin before they sleep, by default so long that two runs on the same
/// cores take six times as long as one. They would get stacks of the size that `ulimit -s` gives the program,
/// however small. OpenBLAS's own threads are never used (base/blas.cpp), but each takes 128 MiB of addresses.
void settle_libraries(char** values) {
  bool is_settled = true;
  const auto settle = [&](const char* name, const char* value) {
    setenv(name, value, 1);
    is_settled = false;
  };
  if (std::getenv("GOMP_SPINCOUNT") == nullptr && std::getenv("OMP_WAIT_POLICY") == nullptr)
    settle("GOMP_SPINCOUNT", "1000");
  if (std::getenv("OMP_STACKSIZE") == nullptr) settle("OMP_STACKSIZE", "8M");
  const char* blas_threads = std::getenv("OPENBLAS_NUM_THREADS");
  if (blas_threads == nullptr || std::string_view(blas_threads) != "1") settle("OPENBLAS_NUM_THREADS", "1");
  if (!is_settled) execv("/proc/self/exe", values);  // returns only where it cannot; the defaults work too
}

/// Raises a low limit on the stack where that is allowed; tells whether the program can run.
bool has_stack() {
  constexpr rlim_t usual = 8 << 20, least = 256 << 10;
  rlimit limit{};
  if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= usual) return true;  // RLIM_INFINITY is largest
  limit.rlim_cur = std::min(usual, limit.rlim_max);
  setrlimit(RLIMIT_STACK, &limit);
  if (limit.rlim_cur >= least) return true;
  std::fprintf(stderr,
               "tern: the limit on the stack must be at least %d KiB, got %d KiB; raise it: ulimit -s 8192\n",
               static_cast<int>(least >> 10), static_cast<int>(limit.rlim_cur >> 10));
  return false;
}

/// A stream that was closed (>&-) must not give its number to the next file opened, into which messages would
/// go. What takes its place fails at every use, as the closed one would.
void keep_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(stream, F_GETFD) == -1) open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

/// Data are mapped into memory: where the file became shorter, or its disk fails, reading raises a signal.
void end_at_lost_data(int) {
  constexpr std::string_view text =
      "tern: a data file became shorter, or could not be read, while it was in use; "
      "check the disk and make the data again\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
  _exit(static_cast<int>(tern::ExitCode::io_error));
}

}  // namespace

int main(int count, char** values) {
  keep_standard_streams();
  if (!has_stack()) return static_cast<int>(tern::ExitCode::failed);
  settle_libraries(values);
  std::signal(SIGBUS, end_at_lost_data);
  // A limit on the size of files (ulimit -f) is an error of the write, like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  return tern::app::run({values + 1, values + count});
}
