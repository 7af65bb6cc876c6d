// However a run is cut to pieces, it ends in the same bits as one that was left alone.
#include <random>

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "end_to_end/child_run.h"
#include "support/tiny_run.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

constexpr int exit_interrupted = 75;

/// Dropout, sampling, accumulation and a cycled momentum: everything that a resumed run has to continue.
ExperimentConfig run_config(const fs::path& data, const std::string& attention,
                            std::vector<std::string> overrides = {}) {
  std::vector<std::string> all{"training.steps=90",    "training.accumulate=2", "schedule.kind=one_cycle",
                               "schedule.warmup=20",   "model.dropout=0.1",     "training.evaluate_every=8",
                               "optimizer.clip_norm=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return tiny_config(data, attention, all);
}

io::Json result_of(const fs::path& folder) {
  return io::parse_json(read_bytes(folder / "result.json"), folder.string());
}

void expect_equal_runs(const fs::path& chopped, const fs::path& whole) {
  const io::Json a = result_of(chopped), b = result_of(whole);
  for (const char* key :
       {"fingerprint", "best_step", "dev_accuracy", "test", "test_drop_last", "steps", "skipped"})
    EXPECT_EQ(a[key], b[key]) << key;
  const auto rows = metrics_rows(chopped / "metrics.jsonl"), expected = metrics_rows(whole / "metrics.jsonl");
  ASSERT_GT(expected.size(), 90u);
  EXPECT_EQ(rows, expected);
}

io::Json newest_state(const fs::path& folder) {
  const auto found = list_checkpoints(folder / "checkpoints");
  if (found.empty() || !found.back().fault.empty()) return {};
  return io::parse_json(read_bytes(found.back().path / "state.json"), "state.json");
}

class ResumeTest : public testing::TestWithParam<std::string> {
 protected:
  TemporaryFolder temporary;
  fs::path data = temporary / "data";
  std::mt19937 random{17};
};

TEST_P(ResumeTest, killed_runs_end_in_the_same_bits) {
  prepare_tiny_data(data);
  const ExperimentConfig config = run_config(data, GetParam());
  const fs::path whole = temporary / "whole", chopped = temporary / "chopped";
  run_to_end(config, whole);
  int kills = 0;
  for (const std::size_t rows :
       {4 + random() % 15, 30 + random() % 15, 52 + random() % 10, 70 + random() % 10}) {
    ChildRun child(config, chopped);
    child.wait_until([&] { return row_count(chopped) >= rows; });
    ::usleep(static_cast<useconds_t>(random() % 6000));
    child.signal(SIGKILL);
    kills += child.wait() == -SIGKILL;
  }
  EXPECT_GE(kills, 3);
  run_to_end(config, chopped);
  EXPECT_TRUE(file_holds(chopped / "log.txt", "continuing after step"));
  expect_equal_runs(chopped, whole);
  EXPECT_LE(list_checkpoints(chopped / "checkpoints").size(), 3u) << "two newest and the best";
}

TEST_P(ResumeTest, runs_stopped_by_a_signal_end_in_the_same_bits) {
  prepare_tiny_data(data);
  const ExperimentConfig config = run_config(data, GetParam());
  const fs::path whole = temporary / "whole", chopped = temporary / "chopped";
  run_to_end(config, whole);
  std::size_t rows = 5;
  for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGHUP}) {
    struct sigaction before {};
    sigaction(SIGHUP, nullptr, &before);
    if (number == SIGHUP && before.sa_handler == SIG_IGN) continue;  // under nohup it is to be ignored
    ChildRun child(config, chopped);
    ASSERT_TRUE(child.wait_until([&] { return row_count(chopped) >= rows; }));
    child.signal(number);
    EXPECT_EQ(child.wait(), exit_interrupted);
    const std::string last = metrics_rows(chopped / "metrics.jsonl").back();
    EXPECT_EQ(newest_state(chopped)["step"], io::parse_json(last, "row")["step"]) << "no update is lost";
    EXPECT_FALSE(fs::exists(chopped / "result.json"));
    rows += 25;
  }
  run_to_end(config, chopped);
  expect_equal_runs(chopped, whole);
}

TEST_P(ResumeTest, a_signal_inside_an_evaluation_loses_nothing) {
  prepare_tiny_data(data, 300, 2500, 70);
  const ExperimentConfig config = run_config(data, GetParam(), {"training.evaluate_every=45"});
  const fs::path whole = temporary / "whole", chopped = temporary / "chopped";
  run_to_end(config, whole);
  bool was_inside = false;
  for (int attempt = 0; attempt < 5 && !was_inside; ++attempt) {
    fs::remove_all(chopped);
    ChildRun child(config, chopped);
    ASSERT_TRUE(child.wait_until([&] { return row_count(chopped) >= 45; }));
    child.signal(SIGTERM);
    EXPECT_EQ(child.wait(), exit_interrupted);
    was_inside = newest_state(chopped)["evaluation_is_due"] == true;
  }
  ASSERT_TRUE(was_inside);
  EXPECT_EQ(newest_state(chopped)["step"], 45);
  // Again, inside the evaluation that the resumed run owes.
  fs::remove(chopped / "log.txt");
  ChildRun again(config, chopped);
  ASSERT_TRUE(again.wait_until([&] { return file_holds(chopped / "log.txt", "continuing after step 45"); }));
  again.signal(SIGTERM);
  EXPECT_EQ(again.wait(), exit_interrupted);
  EXPECT_EQ(newest_state(chopped)["step"], 45) << "nothing is trained before the evaluation is made up for";
  run_to_end(config, chopped);
  expect_equal_runs(chopped, whole);
}

TEST_P(ResumeTest, a_signal_inside_the_final_test_loses_nothing) {
  prepare_tiny_data(data, 300, 40, 2500);
  const ExperimentConfig config =
      run_config(data, GetParam(), {"optimizer.learning_rate=0.3", "optimizer.clip_norm=0"});
  const fs::path whole = temporary / "whole", chopped = temporary / "chopped";
  run_to_end(config, whole);
  ASSERT_LT(result_of(whole)["best_step"], 90) << "else the best parameters are the last";
  bool was_inside = false;
  for (int attempt = 0; attempt < 5 && !was_inside; ++attempt) {
    fs::remove_all(chopped);
    ChildRun child(config, chopped);
    child.wait_until([&] { return file_holds(chopped / "log.txt", "scoring the best checkpoint"); });
    child.signal(SIGTERM);
    was_inside = child.wait() == exit_interrupted;
  }
  ASSERT_TRUE(was_inside);
  EXPECT_EQ(newest_state(chopped)["fingerprint"], result_of(whole)["fingerprint"])
      << "the best parameters, loaded for the test, must not be saved as the last";
  run_to_end(config, chopped);
  expect_equal_runs(chopped, whole);
}

TEST_P(ResumeTest, results_do_not_depend_on_the_number_of_threads) {
  prepare_tiny_data(data);
  std::vector<std::string> fingerprints;
  for (const std::string threads : {"1", "2"}) {
    const fs::path folder = temporary / ("threads-" + threads);
    run_to_end(
        run_config(data, GetParam(),
                   {"training.steps=20", "model.width=32", "training.batch_size=64", "run.threads=" + threads}),
        folder);
    fingerprints.push_back(result_of(folder)["fingerprint"].get<std::string>());
    EXPECT_EQ(io::parse_json(read_bytes(folder / "environment.json"), "environment")["threads"].dump(),
              threads);
  }
  EXPECT_EQ(fingerprints[0], fingerprints[1]);
}

TEST(ExtendedRun, has_no_result_until_it_ends) {
  const TemporaryFolder temporary;
  const fs::path data = temporary / "data", run = temporary / "run", result = run / "result.json";
  prepare_tiny_data(data);
  train_tiny(tiny_config(data, "none"), run);
  train_tiny(tiny_config(data, "none"), run,
             [&](Experiment&) { EXPECT_TRUE(fs::exists(result)) << "the same command again trains nothing"; });
  const std::string before = read_bytes(result);
  train_tiny(tiny_config(data, "none", {"training.steps=24"}), run, [&](Experiment&) {
    EXPECT_FALSE(fs::exists(result));
    EXPECT_EQ(read_bytes(run / "result-12.json"), before);
  });
  EXPECT_EQ(result_of(run)["steps"], 24);
}

INSTANTIATE_TEST_SUITE_P(attention, ResumeTest, testing::Values("softmax", "yoso"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tern::test
