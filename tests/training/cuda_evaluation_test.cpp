// Evaluation on a GPU: as captured graphs it gives the bits of eager evaluation, whatever changed since they
// were captured, and takes no memory of its own.
#include <set>

#include <gtest/gtest.h>

#include "support/cuda_run.h"
#include "support/number_task.h"
#include "training/evaluator.h"
#include "training/splits.h"
#include "training/step_runner.h"

namespace tern::test {
namespace {

/// Parts of 86 sequences are about 1,000 tokens: two capacities. Of a split's last, smaller batch one part has
/// the size of those before it.
const std::vector<std::string> in_parts{"run.device=cuda", "run.deterministic=true", "training.batch_size=172",
                                        "training.accumulate=2"};
constexpr std::int64_t dev_records = 2 * 172 + 86 + 16, test_records = 172 + 86 + 6;

/// A model in training and in evaluation, through one cache of graphs, as in a run.
struct Learner {
  Experiment experiment;
  std::unique_ptr<Communicator> communicator = solo_communicator();
  std::shared_ptr<const data::RecordFile> dev, test;
  data::TrainLoader loader;
  GraphCache graphs;
  StepRunner runner;
  Evaluator evaluator;
  std::uint32_t step = 0;

  explicit Learner(const ExperimentConfig& config) : Learner(config, make_task(config.task)) {}
  Learner(const ExperimentConfig& config, const Task& task)
      : experiment(config, task),
        dev(open_split(task.dev, experiment.task)),
        test(open_split(task.test, experiment.task)),
        loader(open_split(task.train, experiment.task), training_loader_options(experiment, *communicator)),
        graphs(experiment.device(), config.run.graphs),
        runner(
            experiment, *communicator, [this] { return loader.next(); }, graphs),
        evaluator(experiment, graphs) {}

  void train(int steps) {
    const OptimizerConfig& optimizer = experiment.config.optimizer;
    for (int i = 0; i < steps; ++i) {
      runner.launch(step++, optimizer.learning_rate, optimizer.beta1);
      runner.take();
    }
    experiment.state.set_step(step);
  }
  /// Takes over parameters and step.
  void follow(const Learner& other) {
    copy(other.experiment.store.values(), experiment.store.values());
    experiment.store.round_values();
    experiment.state.set_step(other.step);
  }
  TestScore score_dev(std::int64_t limit = 0) { return evaluator.score(dev, limit); }
  TestScore score_test() { return evaluator.score(test); }
};

/// Shapes of the parts that a split is scored in.
std::set<BatchShape> shapes_of(const Learner& learner, const std::shared_ptr<const data::RecordFile>& file) {
  data::LoaderOptions options = evaluation_loader_options(learner.experiment);
  options.batch_size = part_records(learner.experiment);
  data::EvalLoader loader(file, options);
  std::set<BatchShape> shapes;
  while (const std::optional<data::Batch> batch = loader.next()) shapes.insert(shape_of(*batch));
  return shapes;
}

void expect_equal(const Score& a, const Score& b) {
  EXPECT_EQ(a.examples, b.examples);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.accuracy, b.accuracy);
  EXPECT_EQ(a.pearson, b.pearson);
  EXPECT_EQ(a.spearman, b.spearman);
}

void expect_equal(const TestScore& a, const TestScore& b) {
  expect_equal(a.all, b.all);
  expect_equal(a.drop_last, b.drop_last);
}

class CudaEvaluation : public CudaRun {
 protected:
  void prepare() override { prepare_tiny_data(data, 300, dev_records, test_records); }

  ExperimentConfig config(const std::vector<std::string>& overrides) const {
    return tiny_config(data, GetParam(), joined(in_parts, overrides));
  }
};

/// The eager learner never trains: it has the parameters of the captured one, whose graphs must see them, the
/// step and the batches change.
TEST_P(CudaEvaluation, graphs_change_no_bit) {
  for (const std::string objective : {"labels", "masked_tokens"})
    for (const std::string precision : {"float32", "bfloat16"}) {
      const std::vector<std::string> shared{"objective.kind=" + objective, "run.precision=" + precision};
      Learner captured(config(shared)), eager(config(joined(shared, {"run.graphs=false"})));
      EXPECT_EQ(shapes_of(captured, captured.dev).size(), 3u) << "two capacities, and the last part";
      std::set<double> losses;
      for (int round = 0; round < 4; ++round) {
        SCOPED_TRACE(objective + " in " + precision + ", round " + std::to_string(round));
        captured.train(2);
        eager.follow(captured);
        const TestScore dev = captured.score_dev(), test = captured.score_test(), few = captured.score_dev(1);
        expect_equal(dev, eager.score_dev());
        expect_equal(test, eager.score_test());
        expect_equal(few, eager.score_dev(1));
        losses.insert({dev.all.loss, test.all.loss, few.all.loss, dev.drop_last.loss, test.drop_last.loss});
      }
      EXPECT_EQ(losses.size(), 20u) << "other parameters or other records, and the same score";
    }
}

TEST_P(CudaEvaluation, graphs_give_the_numbers_of_a_regression) {
  for (const char* split : {"train.records", "dev.records", "test.records"})
    write_numbers(temporary / split, split[0] == 'd' ? dev_records : test_records);
  const Task task = number_task(temporary.path());
  for (const std::string precision : {"float32", "bfloat16"}) {
    const std::vector<std::string> shared{"run.precision=" + precision};
    Learner captured(config(shared), task), eager(config(joined(shared, {"run.graphs=false"})), task);
    std::set<double> losses;
    for (int round = 0; round < 4; ++round) {
      SCOPED_TRACE(precision + ", round " + std::to_string(round));
      captured.train(2);
      eager.follow(captured);
      const TestScore dev = captured.score_dev(), test = captured.score_test();
      expect_equal(dev, eager.score_dev());
      expect_equal(test, eager.score_test());
      losses.insert({dev.all.loss, dev.drop_last.loss, test.all.loss, test.drop_last.loss});
    }
    EXPECT_EQ(losses.size(), 16u);
  }
}

TEST_P(CudaEvaluation, graphs_draw_from_the_present_step) {
  Learner learner(config({}));
  learner.train(2);
  const auto loss_at = [&](std::uint32_t step) {
    learner.experiment.state.set_step(step);
    return learner.score_dev().all.loss;
  };
  const double first = loss_at(7), captured = loss_at(7), other = loss_at(8), again = loss_at(7);
  EXPECT_EQ(captured, first);
  EXPECT_EQ(again, first);
  EXPECT_EQ(other != first, GetParam() == "yoso");
}

TEST_P(CudaEvaluation, takes_no_memory_once_captured) {
  for (const bool has_graphs : {true, false}) {
    Learner learner(config({has_graphs ? "run.graphs=true" : "run.graphs=false"}));
    for (int round = 0; round < 6; ++round) {
      SCOPED_TRACE((has_graphs ? "graphs, round " : "eager, round ") + std::to_string(round));
      learner.train(2);
      const std::int64_t live = device_memory(0).live_bytes;
      reset_device_memory_peak(0);
      learner.score_dev();
      learner.score_test();
      if (round < 3) continue;  // they are captured, and the arena grows
      EXPECT_EQ(device_memory(0).live_bytes, live);
      EXPECT_EQ(device_memory(0).peak_bytes == live, has_graphs) << "eager work takes memory each time";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(attention, CudaEvaluation, testing::Values("softmax", "yoso", "routing"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tern::test
