#include "end_to_end/child_run.h"

#include <algorithm>
#include <cstdio>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/tiny_run.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* folder_variable = "TERN_TEST_RUN_FOLDER";
constexpr const char* filter = "--gtest_filter=child_run.trains_if_another_test_started_it";

int train_in(const fs::path& folder) {
  try {
    ExperimentConfig config;
    config::load(config, folder.string() + ".yaml");
    install_signal_handlers();
    train_tiny(config, folder);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}

TEST(child_run, trains_if_another_test_started_it) {
  if (const char* folder = std::getenv(folder_variable)) ::_exit(train_in(folder));
}

}  // namespace

ChildRun::ChildRun(const ExperimentConfig& config, const fs::path& folder) {
  write_bytes(folder.string() + ".yaml", config::dump(config));
  const std::string log = folder.string() + ".stderr";
  for (const char* name : {"GTEST_TOTAL_SHARDS", "GTEST_SHARD_INDEX", "GTEST_OUTPUT"}) ::unsetenv(name);
  ::setenv(folder_variable, folder.c_str(), 1);
  process_ = ::fork();
  if (process_ == 0) {
    const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    ::execl("/proc/self/exe", "test", filter, nullptr);
    ::_exit(127);
  }
  ::unsetenv(folder_variable);
  if (process_ == -1) throw std::runtime_error("cannot start a process");
}

ChildRun::~ChildRun() {
  if (ended_) return;
  signal(SIGKILL);
  wait();
}

void ChildRun::signal(int number) const {
  if (!ended_) ::kill(process_, number);
}

bool ChildRun::has_ended() {
  if (!ended_) ended_ = ::waitpid(process_, &status_, WNOHANG) == process_;
  return ended_;
}

int ChildRun::wait() {
  if (!ended_) ended_ = ::waitpid(process_, &status_, 0) == process_;
  return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
}

bool ChildRun::wait_until(const std::function<bool()>& condition) {
  while (!has_ended()) {
    if (condition()) return true;
    ::usleep(300);
  }
  return false;
}

void run_to_end(const ExperimentConfig& config, const fs::path& folder) {
  ASSERT_EQ(ChildRun(config, folder).wait(), 0) << read_bytes(folder.string() + ".stderr");
}

std::size_t row_count(const fs::path& folder) {
  if (!fs::exists(folder / "metrics.jsonl")) return 0;
  const std::string text = read_bytes(folder / "metrics.jsonl");
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

bool file_holds(const fs::path& file, std::string_view text) {
  return fs::exists(file) && read_bytes(file).find(text) != std::string::npos;
}

}  // namespace tern::test
