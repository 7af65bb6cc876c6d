#include "app/child_process.h"

#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tern/error.h"

extern char** environ;

namespace tern::app {
namespace {

constexpr int exit_without_program = 127, signal_base = 128;

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

/// This process's variables, with `changes` in place of those of the same name.
std::vector<std::string> changed_environment(const std::vector<std::string>& changes) {
  std::vector<std::string> out = changes;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable, name = text.substr(0, text.find('=') + 1);
    bool is_changed = false;
    for (const std::string& change : changes) is_changed |= change.starts_with(name);
    if (!is_changed) out.push_back(text);
  }
  return out;
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& arguments,
                           const std::vector<std::string>& environment, const std::filesystem::path& log) {
  std::vector<std::string> words{"tern"}, variables = changed_environment(environment);
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  const int output = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output < 0)
    throw_error(ExitCode::cannot_create, "{}: must be writable, got {}", log, std::strerror(errno));
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ == 0) {  // from here to execve only calls that are safe after a fork with threads
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(exit_without_program);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execve("/proc/self/exe", argv.data(), envp.data());
    _exit(exit_without_program);
  }
  const int reason = errno;
  close(output);
  if (process_ < 0)
    throw_error(ExitCode::failed, "sweep: a process could not be started: {}; lower --jobs",
                std::strerror(reason));
}

ChildProcess::~ChildProcess() {
  if (code_) return;
  signal(SIGTERM);
  collect(0);
}

void ChildProcess::signal(int number) const {
  if (!code_) kill(process_, number);
}

std::optional<int> ChildProcess::exit_code() {
  if (!code_) collect(WNOHANG);
  return code_;
}

void ChildProcess::collect(int options) {
  int status = 0;
  pid_t ended = -1;
  do {
    ended = waitpid(process_, &status, options);
  } while (ended < 0 && errno == EINTR);
  if (ended == process_) code_ = WIFEXITED(status) ? WEXITSTATUS(status) : signal_base + WTERMSIG(status);
}

}  // namespace tern::app
