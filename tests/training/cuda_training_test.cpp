// Training on a GPU: the CPU's losses, equal bits with and without graphs, and nothing allocated on the way.
#include <cmath>

#include <gtest/gtest.h>

#include "support/cuda_run.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "training/evaluator.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> in_float32{"run.device=cuda", "run.precision=float32"};
const std::vector<std::string> in_equal_bits{"run.device=cuda", "run.deterministic=true",
                                             // about 1,000 tokens: two capacities
                                             "training.batch_size=44", "training.evaluate_every=20"};

class CudaTraining : public CudaRun {
 protected:
  ExperimentConfig config(const std::vector<std::string>& overrides) const {
    return tiny_config(data, GetParam(), overrides);
  }
  RunResult train(const std::string& name, const std::vector<std::string>& overrides) const {
    return train_tiny(config(overrides), temporary / name);
  }
  /// One member of the rows about training.
  std::vector<double> column(const std::string& name, const char* member) const {
    std::vector<double> values;
    for (const std::string& text : metrics_rows(temporary / name / "metrics.jsonl")) {
      const io::Json row = io::parse_json(text, "row");
      if (row["kind"] == "train") values.push_back(row[member].get<double>());
    }
    return values;
  }
};

TEST_P(CudaTraining, losses_in_float32_are_the_cpus) {
  const std::vector<std::string> length{"training.steps=50", "training.evaluate_every=50"};
  train("cpu", length);
  train("gpu", joined(length, in_float32));
  // which token comes last into a cluster may follow from the last bits
  const double allowed = GetParam() == "routing" ? 1e-3 : 1e-4;
  EXPECT_EQ(difference(column("gpu", "loss"), column("cpu", "loss"), allowed), "");
  EXPECT_EQ(column("gpu", "tokens"), column("cpu", "tokens"));
  EXPECT_EQ(difference(column("gpu", "gradient_norm"), column("cpu", "gradient_norm"), 1e-2), "");
}

TEST_P(CudaTraining, losses_in_bfloat16_are_close) {
  const std::vector<std::string> length{"training.steps=20", "training.evaluate_every=20"};
  train("cpu", length);
  train("gpu", joined(length, {"run.device=cuda"}));
  EXPECT_EQ(difference(column("gpu", "loss"), column("cpu", "loss"), 0.05), "");
}

TEST_P(CudaTraining, graphs_change_no_bit) {
  for (const std::string precision : {"float32", "bfloat16"}) {
    const std::vector<std::string> shared =
        joined(in_equal_bits, {"training.steps=40", "run.precision=" + precision, "training.accumulate=2"});
    const RunResult captured = train(precision + "-graphs", shared),
                    eager = train(precision + "-eager", joined(shared, {"run.graphs=false"}));
    EXPECT_EQ(captured.fingerprint, eager.fingerprint) << precision;
    EXPECT_EQ(metrics_rows(temporary / (precision + "-graphs") / "metrics.jsonl"),
              metrics_rows(temporary / (precision + "-eager") / "metrics.jsonl"));
    EXPECT_EQ(captured.test.all.loss, eager.test.all.loss);
  }
}

TEST_P(CudaTraining, a_batch_gives_the_same_in_parts) {
  const std::vector<std::string> shared =
      joined(in_float32,
             {"training.batch_size=32", "training.steps=4", "training.evaluate_every=4", "model.dropout=0.2"});
  train("whole", shared);
  train("parts", joined(shared, {"training.accumulate=4"}));
  for (const char* member : {"loss", "gradient_norm"})
    EXPECT_EQ(difference(column("parts", member), column("whole", member), 1e-4), "") << member;
  EXPECT_EQ(column("parts", "tokens"), column("whole", "tokens"));
  EXPECT_EQ(column("parts", "accuracy"), column("whole", "accuracy"));
}

TEST_P(CudaTraining, a_continued_run_ends_in_the_same_bits) {
  const RunResult whole = train("whole", joined(in_equal_bits, {"training.steps=30"}));
  train("chopped", joined(in_equal_bits, {"training.steps=13"}));
  EXPECT_EQ(train("chopped", joined(in_equal_bits, {"training.steps=30"})).fingerprint, whole.fingerprint);
}

TEST_P(CudaTraining, its_checkpoints_can_be_scored_on_the_cpu) {
  const RunResult result = train("run", {"run.device=cuda", "training.steps=10", "training.evaluate_every=10"});
  Experiment experiment(config({}));
  load_parameters(checkpoint_path(temporary / "run" / "checkpoints", 10), experiment.store);
  experiment.state.set_step(10);
  GraphCache graphs(experiment.device(), true);
  const TestScore here =
      Evaluator(experiment, graphs).score(std::make_shared<data::RecordFile>(experiment.task.test));
  EXPECT_EQ(here.all.examples, result.test.all.examples);
  EXPECT_EQ(here.drop_last.examples, result.test.drop_last.examples);
  EXPECT_NEAR(here.all.loss, result.test.all.loss, 0.02 * result.test.all.loss) << "bfloat16 there";
}

TEST_P(CudaTraining, divergence_is_skipped_and_told) {
  const ExperimentConfig chosen = config(
      {"run.device=cuda", "optimizer.learning_rate=1e30", "training.steps=500", "training.evaluate_every=500"});
  const fs::path run = temporary / "run";
  Experiment experiment(chosen);
  const auto communicator = solo_communicator();
  Trainer trainer(experiment, *communicator, {run, ResumeMode::newest, {}});
  EXPECT_EQ(thrown_error([&] { trainer.run(); }).code(), ExitCode::diverged);
  for (const double value : experiment.store.values().to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
  std::size_t told = 0;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (!entry.path().filename().string().starts_with("anomaly-")) continue;
    ++told;
    const io::Json anomaly = io::parse_json(read_bytes(entry.path()), "anomaly");
    EXPECT_EQ(anomaly["samples"].size(), 16u);
    EXPECT_EQ(anomaly["gradient_norm"].size(), experiment.store.parameters().size());
  }
  EXPECT_GE(told, 10u);
}

TEST_P(CudaTraining, steps_allocate_nothing) {
  for (const char* graphs : {"true", "false"}) {
    Experiment experiment(config({"run.device=cuda", std::string("run.graphs=") + graphs,
                                  "training.batch_size=44", "training.steps=1000", "training.log_every=1000"}));
    const auto communicator = solo_communicator();
    Trainer trainer(experiment, *communicator, {temporary / graphs, ResumeMode::newest, {}});
    for (int step = 0; step < 20; ++step) trainer.step();
    const std::int64_t live = device_memory(0).live_bytes;
    for (int step = 0; step < 200; ++step) {
      trainer.step();
      ASSERT_EQ(device_memory(0).live_bytes, live) << "step " << step << ", graphs " << graphs;
    }
  }
}

TEST_P(CudaTraining, memory_that_runs_out_is_told_with_advice) {
  // One tensor alone is larger than any GPU: other tests keep their memory.
  Experiment experiment(config({"run.device=cuda", "model.hidden_width=262144", "training.batch_size=32768"}));
  const auto communicator = solo_communicator();
  Trainer trainer(experiment, *communicator, {temporary / "run", ResumeMode::newest, {}});
  const Error error = thrown_error([&] { trainer.step(); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_TRUE(mentions(error, "out of memory on cuda:0")) << error.what();
  EXPECT_TRUE(mentions(error, "largest: ")) << error.what();
  EXPECT_TRUE(mentions(error, "examples at a time should fit: training.accumulate=")) << error.what();
}

INSTANTIATE_TEST_SUITE_P(attention, CudaTraining, testing::Values("softmax", "yoso", "routing"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tern::test
