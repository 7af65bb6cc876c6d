// How many examples a score is made of, and that one evaluation leaves nothing to the next.
#include "training/evaluator.h"

#include <gtest/gtest.h>

#include "support/tiny_run.h"

namespace tern::test {
namespace {

std::shared_ptr<const data::RecordFile> file_at(const std::filesystem::path& path) {
  return std::make_shared<const data::RecordFile>(path);
}

TEST(Evaluator, limits_count_batches_of_the_configured_size) {
  const TemporaryFolder folder;
  prepare_tiny_data(folder / "data", 100, 20, 70);
  const ThreadScope scope(1);
  for (const std::string parts : {"1", "4"}) {
    Experiment experiment(tiny_config(folder / "data", "none", {"training.accumulate=" + parts}));
    GraphCache graphs(experiment.device(), true);
    Evaluator evaluator(experiment, graphs);
    const auto test = file_at(experiment.task.test);
    EXPECT_EQ(evaluator.score(test).all.examples, 70);
    EXPECT_EQ(evaluator.score(test).drop_last.examples, 64) << "four batches of 16 are whole";
    EXPECT_EQ(evaluator.score(test, 2).all.examples, 32);
    EXPECT_EQ(evaluator.score(test, 2).drop_last.examples, 32);
    EXPECT_EQ(evaluator.score(test, 4).all.examples, 64) << "the last batch is not begun";
    EXPECT_EQ(evaluator.score(test, 5).drop_last.examples, 64);
    EXPECT_EQ(evaluator.score(test, 9).all.examples, 70);
  }
}

TEST(Evaluator, whole_batches_are_scored_apart_from_the_last) {
  const TemporaryFolder folder;
  prepare_tiny_data(folder / "data", 100, 10, 70);
  const ThreadScope scope(1);
  Experiment experiment(tiny_config(folder / "data", "softmax", {"training.accumulate=4"}));
  GraphCache graphs(experiment.device(), true);
  Evaluator evaluator(experiment, graphs);
  const auto dev = file_at(experiment.task.dev), test = file_at(experiment.task.test);
  const TestScore all = evaluator.score(test), few = evaluator.score(dev), whole = evaluator.score(test, 4);
  EXPECT_EQ(all.drop_last.loss, whole.all.loss);
  EXPECT_EQ(all.drop_last.accuracy, whole.all.accuracy);
  EXPECT_NE(all.all.loss, whole.all.loss);
  EXPECT_EQ(few.all.examples, 10);
  EXPECT_EQ(few.drop_last.examples, 0) << "no batch of dev is whole";
  EXPECT_EQ(few.drop_last.loss, 0);
  EXPECT_EQ(evaluator.score(test).all.loss, all.all.loss);
}

}  // namespace
}  // namespace tern::test
