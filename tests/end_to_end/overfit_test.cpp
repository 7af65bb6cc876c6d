// The whole model learns 32 examples by heart with every attention mechanism.
#include <gtest/gtest.h>

#include "support/tiny_run.h"

namespace tern::test {
namespace {

void check_overfit(const std::string& attention, const std::vector<std::string>& more) {
  const TemporaryFolder temporary;
  prepare_tiny_data(temporary / "data", 32, 10, 10);
  std::vector<std::string> overrides{"training.steps=150",
                                     "training.batch_size=32",
                                     "model.width=32",
                                     "model.dropout=0",
                                     "model.pooling=mean",
                                     "optimizer.learning_rate=1e-2",
                                     "schedule.kind=one_cycle",
                                     "schedule.warmup=30",
                                     "training.evaluate_every=150",
                                     "training.checkpoint_every=150"};
  overrides.insert(overrides.end(), more.begin(), more.end());
  train_tiny(tiny_config(temporary / "data", attention, overrides), temporary / "run");
  std::vector<double> losses, accuracies;
  for (const std::string& text : metrics_rows(temporary / "run" / "metrics.jsonl")) {
    const io::Json row = io::parse_json(text, "row");
    if (row["kind"] != "train") continue;
    losses.push_back(row["loss"].get<double>());
    accuracies.push_back(row["accuracy"].get<double>());
  }
  ASSERT_EQ(losses.size(), 150u);
  EXPECT_GT(losses.front(), 1.5) << "close to ln 10 at the start";
  EXPECT_LT(losses[75], losses.front());
  EXPECT_LT(losses.back(), 0.1);
  EXPECT_EQ(accuracies.back(), 1.0);
}

class Overfit : public testing::TestWithParam<std::string> {};

TEST_P(Overfit, learns_32_examples) {
  check_overfit(GetParam(), GetParam() == "softmax" ? std::vector<std::string>{"model.attention.dropout=0"}
                                                    : std::vector<std::string>{});
}

std::vector<std::string> names_of_kinds() {
  std::vector<std::string> names;
  for (const AttentionKind& kind : attention_kinds()) names.emplace_back(kind.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Kinds, Overfit, testing::ValuesIn(names_of_kinds()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace tern::test
