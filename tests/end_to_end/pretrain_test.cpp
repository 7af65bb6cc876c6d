// Pre-training on masked tokens, cut to pieces, and the training that starts from it.

#include <gtest/gtest.h>
#include <signal.h>

#include "end_to_end/child_run.h"
#include "support/tiny_run.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

io::Json result_of(const fs::path& folder) {
  return io::parse_json(read_bytes(folder / "result.json"), folder.string());
}

/// Everything a resumed run has to continue, and rotary positions beside it.
std::vector<std::string> shared_settings() {
  return {"training.steps=60", "training.accumulate=2",  "schedule.kind=one_cycle",  "schedule.warmup=20",
          "model.dropout=0.1", "model.positions=rotary", "training.evaluate_every=8"};
}

class PretrainTest : public testing::TestWithParam<std::string> {
 protected:
  TemporaryFolder temporary;
  fs::path data = temporary / "data";
  ExperimentConfig config(const std::vector<std::string>& more) const {
    std::vector<std::string> all = shared_settings();
    all.insert(all.end(), more.begin(), more.end());
    return tiny_config(data, GetParam(), all);
  }
  /// Trains in `folder`, killed twice on the way.
  void run_chopped(const ExperimentConfig& chosen, const fs::path& folder) const {
    int kills = 0;
    for (const std::size_t rows : {9u, 37u}) {
      ChildRun child(chosen, folder);
      child.wait_until([&] { return row_count(folder) >= rows; });
      child.signal(SIGKILL);
      kills += child.wait() == -SIGKILL;
    }
    EXPECT_GE(kills, 1);
    run_to_end(chosen, folder);
  }
};

TEST_P(PretrainTest, killed_runs_end_in_the_same_bits_before_and_after_the_start) {
  prepare_tiny_data(data);
  const fs::path whole = temporary / "whole", chopped = temporary / "chopped", after = temporary / "after",
                 after_chopped = temporary / "after-chopped";
  const ExperimentConfig pretraining = config({"objective.kind=masked_tokens"});
  run_to_end(pretraining, whole);
  run_chopped(pretraining, chopped);
  for (const char* key : {"fingerprint", "best_step", "dev_loss", "dev_accuracy", "test"})
    EXPECT_EQ(result_of(chopped)[key], result_of(whole)[key]) << key;
  EXPECT_EQ(metrics_rows(chopped / "metrics.jsonl"), metrics_rows(whole / "metrics.jsonl"));

  const ExperimentConfig training = config({"training.start_from=" + whole.string()});
  run_to_end(training, after);
  run_chopped(training, after_chopped);
  for (const char* key : {"fingerprint", "best_step", "dev_accuracy", "test", "start"})
    EXPECT_EQ(result_of(after_chopped)[key], result_of(after)[key]) << key;
  EXPECT_EQ(result_of(after)["start"]["step"], result_of(whole)["best_step"]);
}

INSTANTIATE_TEST_SUITE_P(attention, PretrainTest, testing::Values("softmax", "yoso"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tern::test
