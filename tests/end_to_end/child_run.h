// Training in a process of its own, which a test may signal or kill at any moment.
#pragma once

#include <filesystem>
#include <functional>

#include <sys/types.h>

#include "tern/experiment.h"

namespace tern::test {

/// Starts this test program again; there, child_run_test.cpp trains `config` in `folder`, as `tern train` does.
class ChildRun {
 public:
  ChildRun(const ExperimentConfig& config, const std::filesystem::path& folder);
  /// Kills and collects a process that still runs.
  ~ChildRun();
  ChildRun(const ChildRun&) = delete;
  ChildRun& operator=(const ChildRun&) = delete;

  void signal(int number) const;
  /// Waits for the end: the exit code, or minus the number of the signal that ended it.
  int wait();
  /// Waits until `condition` holds or the process ends; tells whether it held while the process ran.
  bool wait_until(const std::function<bool()>& condition);

 private:
  bool has_ended();
  pid_t process_ = -1;
  bool ended_ = false;
  int status_ = 0;
};

/// Trains to the end in a child; a test failure unless it exits with 0.
void run_to_end(const ExperimentConfig& config, const std::filesystem::path& folder);

/// Complete rows of a run's metrics so far.
std::size_t row_count(const std::filesystem::path& folder);
bool file_holds(const std::filesystem::path& file, std::string_view text);

}  // namespace tern::test
