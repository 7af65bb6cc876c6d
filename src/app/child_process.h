// This program once more, in a process of its own.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace tern::app {

/// `tern <arguments>` in a process group of its own, so that a terminal's Ctrl-C reaches only the parent, which
/// decides. It gets SIGTERM, on which a run saves itself, should this process die.
class ChildProcess {
 public:
  /// `environment` are "NAME=value", set besides or in place of this process's; both output streams are
  /// appended to `log`. Error(failed) where no process can be started.
  ChildProcess(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
               const std::filesystem::path& log);
  /// Ends (SIGTERM) and collects a process that still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  void signal(int number) const;
  /// The exit code once it has ended, 128 + the number of a signal that ended it.
  std::optional<int> exit_code();

 private:
  void collect(int options);

  pid_t process_ = -1;
  std::optional<int> code_;
};

}  // namespace tern::app
