// Experiment files that are damaged or hostile: read, or refused with their mistakes.
#include "support/mutation.h"

#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "tern/experiment.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

const fs::path configs = fs::path(TERN_SOURCE_DIR) / "configs";

void expect_survival(const fs::path& file, int count) {
  SCOPED_TRACE(file);
  const Fed fed = feed(read_bytes(file), Variation::bytes, count,
                       {ExitCode::bad_config, ExitCode::missing_input}, [&](const std::string& text) {
                         ExperimentConfig config;
                         config::load_text(config, text, file);
                       });
  EXPECT_GT(fed.refused, fed.accepted / 3);
}

TEST(ConfigMutation, damaged_experiment_files_are_read_or_refused) {
  expect_survival(configs / "quickstart.yaml", 300);
  for (const auto& entry : fs::recursive_directory_iterator(configs / "lra"))
    if (entry.path().extension() == ".yaml") expect_survival(entry.path(), 30);
}

TEST(ConfigMutation, damaged_overrides_are_read_or_refused) {
  for (const std::string text :
       {"model.attention.kind=yoso", "optimizer.learning_rate=1e-4", "run.out=\"a b\""})
    feed(text, Variation::bytes, 150, {ExitCode::bad_config}, [](const std::string& override) {
      ExperimentConfig config;
      config::load_text(config, "{run: {seed: 3}}", "text.yaml", std::vector{override});
    });
}

}  // namespace
}  // namespace tern::test
