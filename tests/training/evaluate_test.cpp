// How many examples a score is made of.
#include <gtest/gtest.h>

#include "support/tiny_run.h"

namespace tern::test {
namespace {

TEST(Evaluate, limits_count_batches_of_the_configured_size) {
  const TemporaryFolder folder;
  prepare_tiny_data(folder / "data", 100, 20, 70);
  const ThreadScope scope(1);
  for (const std::string parts : {"1", "4"}) {
    Experiment experiment(tiny_config(folder / "data", "none", {"training.accumulate=" + parts}));
    const auto scored = [&](std::int64_t limit) { return evaluate(experiment, experiment.task.test, limit); };
    EXPECT_EQ(scored(0).all.examples, 70);
    EXPECT_EQ(scored(0).drop_last.examples, 64) << "four batches of 16 are whole";
    EXPECT_EQ(scored(2).all.examples, 32);
    EXPECT_EQ(scored(9).all.examples, 70);
  }
}

}  // namespace
}  // namespace tern::test
