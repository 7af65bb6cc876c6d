// A sweep over results that cannot be read.
#include <gtest/gtest.h>

#include "app/command.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

TEST(SweepDamage, damaged_results_are_refused_by_name) {
  const TemporaryFolder folder;
  write_bytes(folder / "task.yaml", "base: [" + config_file("quickstart.yaml") +
                                        "]\ntask: {data: data}\nrun: {device: cpu, precision: float32}\n");
  write_bytes(folder / "sweep.yaml", "tasks: [task.yaml]\nseeds: [1]\n");
  const auto run = folder / "runs/task-seed1";
  std::filesystem::create_directories(run);
  const std::string task = folder / "task.yaml", sweep = folder / "sweep.yaml", out = folder / "runs";
  write_bytes(run / "config.resolved.yaml", tern_command({"config", "show", task, "--set", "run.seed=1"}).out);
  for (const char* damage : {R"({"test": {"accuracy": "much"}})", R"({"test": []})", "[", "{}", "7", ""}) {
    write_bytes(run / "result.json", damage);
    const Outcome outcome = tern_command({"sweep", sweep, "--out", out});
    EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::bad_data)) << damage << ": " << outcome.err;
    EXPECT_TRUE(holds(outcome.err, "task-seed1/result.json")) << outcome.err;
  }
}

}  // namespace
}  // namespace tern::test
