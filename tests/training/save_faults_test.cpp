// A save that fails or is killed at any of its file calls.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "tern/logging.h"

namespace tern {
namespace {

namespace fs = std::filesystem;
using test::FileFault;
using test::TemporaryFolder;
using test::tiny_config;

constexpr std::int64_t keep = 2;

struct Saved {
  std::string fingerprint;
  double best_accuracy;
  bool operator==(const Saved&) const = default;
};

/// A folder with the checkpoint of step 5, and an experiment whose next save comes later or replaces that one.
class SaveTest : public testing::TestWithParam<bool> {
 protected:
  TemporaryFolder temporary;
  Experiment experiment{tiny_config("nowhere", "softmax")};
  fs::path folder = temporary / "checkpoints";
  Progress old_progress, new_progress;
  Saved old_state, new_state;

  void SetUp() override { logging::set_level(logging::Level::error); }
  void TearDown() override { logging::set_level(logging::Level::info); }

  void start() {
    fs::remove_all(folder);
    fill(1);
    old_progress.step = old_progress.position = 5;
    save_checkpoint(folder, experiment, old_progress);
    old_state = {fingerprint(experiment, old_progress), 0};
    const bool replaces = GetParam();
    new_progress = old_progress;
    new_progress.best_accuracy = 0.5;
    if (!replaces) {
      new_progress.step = 6;
      fill(2);
    }
    new_state = {fingerprint(experiment, new_progress), 0.5};
  }
  void fill(double value) {
    copy(full(experiment.store.values().shape(), value, DType::float64), experiment.store.values());
  }
  void save() {
    save_checkpoint(folder, experiment, new_progress);
    rotate_checkpoints(folder, keep, 0);
  }
  std::int64_t calls_of_save() {
    start();
    io::reset_faults();
    save();
    return io::file_calls();
  }
  Saved resumed() {
    Experiment other(tiny_config("nowhere", "softmax"));
    const auto found = resume_newest(folder, other);
    if (!found) return {"nothing", 0};
    return {fingerprint(other, *found), found->best_accuracy};
  }
  int temporaries() const {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(folder))
      count += entry.path().filename().string().starts_with(".tmp-");
    return count;
  }
};

TEST_P(SaveTest, a_failure_at_any_call_keeps_the_old_checkpoint_and_the_state) {
  const std::int64_t calls = calls_of_save();
  EXPECT_GT(calls, 20);
  int failures = 0;
  for (std::int64_t call = 1; call <= calls; ++call)
    for (const char* effect : {"enospc", "eio", "short"}) {
      start();
      bool failed = false;
      {
        const FileFault fault("any:" + std::to_string(call) + ":" + effect);
        try {
          save();
        } catch (const Error& error) {
          failed = true;
          ++failures;
          EXPECT_TRUE(error.code() == ExitCode::io_error || error.code() == ExitCode::cannot_create)
              << error.what();
        }
      }
      SCOPED_TRACE("call " + std::to_string(call) + " " + effect + (failed ? " failed" : " went on"));
      EXPECT_EQ(fingerprint(experiment, new_progress), new_state.fingerprint) << "the state in memory";
      const Saved found = resumed();
      EXPECT_TRUE(found == new_state || (failed && found == old_state)) << "neither old nor new";
      if (failed && verify_checkpoint(checkpoint_path(folder, 6)).fault != "") {
        EXPECT_EQ(temporaries(), 0);
      }
      save();
      EXPECT_EQ(resumed(), new_state) << "the next save works";
      EXPECT_EQ(temporaries(), 0);
    }
  EXPECT_GT(failures, 40);
}

TEST_P(SaveTest, a_kill_at_any_call_leaves_the_old_or_the_new_checkpoint) {
  const std::int64_t calls = calls_of_save();
  EXPECT_GT(calls, 20);
  bool found_old = false, found_new = false;
  for (std::int64_t call = 1; call <= calls; ++call) {
    start();
    const pid_t child = ::fork();
    ASSERT_NE(child, -1);
    if (child == 0) {
      const FileFault fault("any:" + std::to_string(call) + ":kill");
      save();
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "call " << call;
    const Saved found = resumed();
    EXPECT_TRUE(found == new_state || found == old_state) << "call " << call << " leaves " << found.fingerprint;
    found_old |= found == old_state;
    found_new |= found == new_state;
    save();
    EXPECT_EQ(resumed(), new_state);
    EXPECT_EQ(temporaries(), 0);
  }
  EXPECT_TRUE(found_old && found_new);
}

INSTANTIATE_TEST_SUITE_P(save, SaveTest, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "in_place_of_another" : "after_another"; });

}  // namespace
}  // namespace tern
