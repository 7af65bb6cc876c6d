#include <csignal>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include "app/commands.h"
#include "tern/error.h"

namespace {

/// Threads that wait for others spin before they sleep, by default so long that two runs on the same cores take
/// six times as long as one. The OpenMP library reads its settings before main(), so the program starts itself
/// again.
void shorten_spinning(char** values) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 1);
  execv("/proc/self/exe", values);  // returns only where it cannot; the defaults work too
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
  shorten_spinning(values);
  std::signal(SIGBUS, end_at_lost_data);
  // A limit on the size of files (ulimit -f) is an error of the write, like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  return tern::app::run({values + 1, values + count});
}
