// Published scores stand beside runs of the same recipe only.
#include "report/published.h"

#include <gtest/gtest.h>

#include "report/run_fixture.h"
#include "tern/experiment.h"

namespace tern::test {
namespace {

using report::Protocol;

Protocol protocol_with(const std::string& key, const std::string& value) {
  const TemporaryFolder folder;
  io::Json result = listops_result();
  result["config"][key] = value;
  write_run(folder / "run", result);
  return report::protocol_of(report::read_run(folder / "run/result.json"));
}

TEST(Published, a_recipe_is_recognised_by_model_batch_and_steps) {
  EXPECT_EQ(protocol_with("run.seed", "1"), Protocol::small);
  for (const char* key : {"model.layers", "model.heads", "model.width", "model.hidden_width", "training.steps",
                          "training.batch_size", "task.padded_length", "model.norm", "model.positions",
                          "model.pooling", "model.dropout", "schedule.kind"})
    EXPECT_EQ(protocol_with(key, "7"), Protocol::none) << key;
  EXPECT_EQ(protocol_with("task.kind", "text"), Protocol::none) << "its protocol has 20,000 steps";
  EXPECT_EQ(protocol_with("training.start_from", "runs/pre"), Protocol::none);
}

TEST(Published, shipped_files_are_the_protocols_that_they_say) {
  for (const std::string& task : report::averaged_tasks())
    for (const auto& [file, protocol] :
         {std::pair(task + ".yaml", Protocol::small),
          std::pair("original/" + task + "_original.yaml", Protocol::original)}) {
      ExperimentConfig config;
      config::load(config, std::filesystem::path(TERN_SOURCE_DIR) / "configs/lra" / file);
      report::RunRecord run;
      for (const auto& [key, value] : config::values(config)) run.config[key] = value;
      EXPECT_EQ(report::protocol_of(run), protocol) << file;
    }
}

TEST(Published, rows_have_the_averages_that_were_published_with_them) {
  struct Row {
    Protocol protocol;
    const char* mechanism;
    double average;
  };
  // Averages as printed in the sources (spec of the papers' tables), rounded there to two digits.
  for (const Row& row : std::vector<Row>{{Protocol::small, "None", 51.09},
                                         {Protocol::small, "Softmax", 58.77},
                                         {Protocol::small, "YOSO-E", 59.17},
                                         {Protocol::small, "Nystromformer", 58.95},
                                         {Protocol::small, "Longformer", 58.97},
                                         {Protocol::small, "Linformer", 55.59},
                                         {Protocol::small, "Reformer", 55.04},
                                         {Protocol::small, "Performer", 53.63},
                                         {Protocol::small, "YOSO-32", 58.32},
                                         {Protocol::small, "YOSO-C-16", 59.16},
                                         {Protocol::original, "Softmax", 54.39},
                                         {Protocol::original, "Linear Transformer", 50.55},
                                         {Protocol::original, "Reformer", 50.67},
                                         {Protocol::original, "Linformer", 51.36},
                                         {Protocol::original, "Performer", 51.41},
                                         {Protocol::original, "Longformer", 53.46}}) {
    double sum = 0;
    for (const std::string& task : report::averaged_tasks())
      sum += report::published_score(row.protocol, row.mechanism, task).value().percent;
    EXPECT_NEAR(sum / 5, row.average, 0.0101) << row.mechanism;
  }
}

TEST(Published, what_could_not_be_verified_says_so) {
  EXPECT_TRUE(report::published_score(Protocol::small, "Softmax", "text")->is_verified);
  EXPECT_FALSE(report::published_score(Protocol::small, "YOSO-32", "text")->is_verified);
  EXPECT_FALSE(report::published_score(Protocol::none, "Softmax", "text").has_value());
  EXPECT_FALSE(report::published_score(Protocol::small, "Softmax", "path_x").has_value());
  EXPECT_FALSE(report::published_score(Protocol::small, "Linear Transformer", "text").has_value());
}

}  // namespace
}  // namespace tern::test
