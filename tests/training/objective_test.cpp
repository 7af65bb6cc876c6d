// What a step minimises: masked tokens, and numbers.
#include "tern/objective.h"

#include <cmath>

#include <gtest/gtest.h>

#include "support/number_task.h"
#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "support/tolerance.h"
#include "tern/logging.h"
#include "tern/ops.h"
#include "training/device_batch.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

class ObjectiveTest : public testing::Test {
 protected:
  TemporaryFolder temporary;
  fs::path data = temporary / "data";
  void SetUp() override {
    logging::set_level(logging::Level::error);
    prepare_tiny_data(data);
  }
  void TearDown() override { logging::set_level(logging::Level::info); }
  ExperimentConfig masked(std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.begin(), "objective.kind=masked_tokens");
    return tiny_config(data, "softmax", overrides);
  }
  io::Json result_of(const std::string& run) const {
    return io::parse_json(read_bytes(temporary / run / "result.json"), run);
  }
};

data::Batch batch_of(std::int64_t sequences, std::int64_t length, std::int64_t vocabulary) {
  data::Batch batch;
  batch.offsets = {0};
  for (std::int64_t s = 0; s < sequences; ++s) {
    for (std::int64_t i = 0; i < length; ++i) {
      batch.tokens.push_back(static_cast<std::int32_t>(1 + (s + i * i) % (vocabulary - 1)));
      batch.position.push_back(static_cast<std::int32_t>(i));
    }
    batch.offsets.push_back(static_cast<std::int32_t>(batch.tokens.size()));
    batch.sample.push_back(s);
    batch.labels.push_back(static_cast<std::int32_t>(s % 10));
  }
  batch.records = sequences;
  batch.padded_length = 48;
  return batch;
}

struct Graded {
  ScoreTotals score;
  double loss;
};
Graded graded(Experiment& experiment, const data::Batch& batch, bool training) {
  const NoGradientScope no_gradient;
  Graded out;
  out.loss = (*experiment.objective)(experiment.model, host_batch(batch), training, &out.score).loss.item();
  return out;
}

TEST_F(ObjectiveTest, masked_tokens_replace_the_classifier_by_a_token_head) {
  const Experiment labels(tiny_config(data, "softmax")), tokens(masked());
  std::int64_t encoder = 0;
  for (const Parameter& parameter : labels.store.parameters())
    if (parameter.path.starts_with("encoder.")) encoder += parameter.master.count();
  EXPECT_EQ(labels.store.count() - encoder, 16 * 16 + 16 + 10 * 16 + 10);
  EXPECT_EQ(tokens.store.count() - encoder, 16 * 16 + 16 + 2 * 16 + 32) << "the decoder is the token table";
}

/// The loss of an encoder that knows nothing is ln(vocabulary); only chosen tokens count.
TEST_F(ObjectiveTest, masked_tokens_are_scored_over_the_chosen_ones) {
  Experiment experiment(masked(), DType::float64);
  copy(zeros(experiment.store.values().shape(), DType::float64), experiment.store.values());
  const Graded all = graded(experiment, batch_of(40, 40, 16), true);
  EXPECT_NEAR(all.score.examples, 240, 5 * std::sqrt(1600 * 0.15 * 0.85));
  EXPECT_NEAR(all.loss, all.score.examples * std::log(32.0), 1e-9);
  EXPECT_NEAR(all.score.loss, all.loss, 1e-9);
  EXPECT_EQ(all.score.correct, 0) << "of equal logits the first one, the mask's, counts";
}

TEST_F(ObjectiveTest, training_draws_other_masks_each_step_and_evaluation_the_same) {
  Experiment experiment(masked());
  const data::Batch batch = batch_of(8, 40, 16);
  const auto losses = [&](bool training) {
    std::vector<double> out;
    for (const std::uint32_t step : {0, 1, 7}) {
      experiment.state.set_step(step);
      out.push_back(graded(experiment, batch, training).score.loss);
    }
    return out;
  };
  const auto trained = losses(true), evaluated = losses(false);
  EXPECT_NE(trained[0], trained[1]);
  EXPECT_NE(trained[1], trained[2]);
  EXPECT_EQ(evaluated, std::vector<double>(3, evaluated[0]));
}

/// Where data have one id, a token that is replaced stays what it is.
TEST_F(ObjectiveTest, tokens_are_never_replaced_by_the_mask) {
  const ExperimentConfig config = masked({"objective.rate=1", "objective.masked=0", "objective.replaced=1",
                                          "model.dropout=0", "model.attention.dropout=0"});
  Task task = make_task(config.task);
  ASSERT_TRUE(task.mask_zero) << "0 is the mask's";
  task.interface.ids = 2;
  Experiment experiment(config, task);
  const data::Batch ones = batch_of(8, 40, 2);
  const Graded first = graded(experiment, ones, true);
  EXPECT_EQ(first.score.examples, 320);
  experiment.state.set_step(1);
  EXPECT_EQ(graded(experiment, ones, true).loss, first.loss) << "no draw changes anything";
}

TEST_F(ObjectiveTest, masked_tokens_are_learned_and_the_lowest_loss_is_kept) {
  const RunResult result = train_tiny(
      masked({"training.steps=120", "training.evaluate_every=20", "model.dropout=0", "model.width=32"}),
      temporary / "run");
  const std::vector<std::string> rows = metrics_rows(temporary / "run" / "metrics.jsonl");
  std::vector<double> dev;
  for (const std::string& text : rows)
    if (const io::Json row = io::parse_json(text, "row"); row["kind"] == "dev") dev.push_back(row["loss"]);
  ASSERT_EQ(dev.size(), 6u);
  EXPECT_LT(dev.back(), dev.front() - 0.2);
  EXPECT_EQ(result.progress.best_loss, *std::min_element(dev.begin(), dev.end()));
  const io::Json written = result_of("run");
  EXPECT_EQ(written["objective"], "masked_tokens");
  EXPECT_EQ(written["selected_by"], "loss");
  EXPECT_TRUE(written["test_majority_accuracy"].is_null());
  EXPECT_GT(written["test"]["examples"].get<int>(), 70) << "tokens are scored, not examples";
}

TEST_F(ObjectiveTest, parts_of_a_batch_give_the_gradient_of_the_whole) {
  const auto gradient = [&](const std::string& parts) {
    Experiment experiment(masked({"training.batch_size=32", "training.accumulate=" + parts}), DType::float64);
    const auto communicator = solo_communicator();
    RunOptions options;
    options.folder = temporary / ("in-" + parts);
    Trainer trainer(experiment, *communicator, options);
    trainer.step();
    return experiment.store.gradients().to_vector<double>();
  };
  const std::vector<double> whole = gradient("1");
  EXPECT_EQ(difference(gradient("8"), whole, 1e-12), "");
}

TEST_F(ObjectiveTest, the_mask_needs_a_row_of_the_token_table) {
  Task task = make_task(masked().task);
  task.mask_zero = false;
  EXPECT_NO_THROW(Experiment(masked(), task)) << "ids end at 16 of 32";
  task.interface.ids = 0;
  const Error error = thrown_error([&] { Experiment(masked(), task); });
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "raise task.vocabulary"));
  task.mask_zero = true;
  EXPECT_NO_THROW(Experiment(masked(), task)) << "no token of a batch has id 0";
}

TEST_F(ObjectiveTest, wrong_settings_are_named) {
  EXPECT_TRUE(mentions(thrown_error([&] { masked({"objective.rate=0"}); }), "objective.rate"));
  EXPECT_TRUE(mentions(thrown_error([&] { masked({"objective.masked=0.95"}); }),
                       "objective.replaced must be at most 1 - objective.masked (0.95), got 0.1"));
  EXPECT_EQ(thrown_error([&] { tiny_config(data, "softmax", {"objective.kind=guess"}); }).code(),
            ExitCode::bad_config);
}

// ---- regression ----

TEST_F(ObjectiveTest, numbers_are_learned_and_scored_by_error_and_correlation) {
  const fs::path numbers = temporary / "numbers";
  fs::create_directory(numbers);
  for (const char* split : {"train.records", "dev.records", "test.records"}) write_numbers(numbers / split, 70);
  Experiment experiment(tiny_config(data, "softmax",
                                    {"training.steps=150", "training.evaluate_every=50", "model.dropout=0",
                                     "model.pooling=mean"}),
                        number_task(numbers));
  const auto communicator = solo_communicator();
  RunOptions options;
  options.folder = temporary / "run";
  Trainer trainer(experiment, *communicator, options);
  const RunResult result = trainer.run();
  EXPECT_EQ(result.test.all.examples, 70);
  EXPECT_EQ(result.test.drop_last.examples, 64);
  EXPECT_GT(result.test.all.pearson, 0.9);
  EXPECT_GT(result.test.all.spearman, 0.85);
  EXPECT_FALSE(result.test_majority.has_value());

  // The same by the model's own outputs.
  const data::RecordFile file(numbers / "test.records");
  const NoGradientScope no_gradient;
  double squares = 0;
  for (std::int64_t r = 0; r < file.count(); ++r) {
    data::Batch one = batch_of(1, 12, 16);
    for (std::int64_t i = 0; i < 12; ++i) one.tokens[static_cast<std::size_t>(i)] = file.tokens(r)[i];
    const DeviceBatch batch = host_batch(one);
    squares += std::pow(experiment.model(batch.tokens, batch.layout, false).item() - file.target(r), 2);
  }
  EXPECT_NEAR(result.test.all.loss, squares / 70, 1e-6);

  const io::Json written = result_of("run");
  EXPECT_TRUE(written["dev_accuracy"].is_null());
  EXPECT_EQ(written["test"]["pearson"], result.test.all.pearson);
  for (const std::string& row : metrics_rows(temporary / "run" / "metrics.jsonl"))
    EXPECT_EQ(row.find("accuracy"), row.npos) << row;
}

TEST_F(ObjectiveTest, labels_of_the_other_kind_are_refused) {
  const fs::path numbers = temporary / "numbers";
  fs::create_directory(numbers);
  for (const char* split : {"train.records", "dev.records", "test.records"})
    write_numbers(numbers / split, 20, data::LabelKind::classes);
  Experiment experiment(tiny_config(data, "softmax"), number_task(numbers));
  const auto communicator = solo_communicator();
  RunOptions options;
  options.folder = temporary / "run";
  const Error error = thrown_error([&] { Trainer(experiment, *communicator, options); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "must hold numbers as labels, got classes"));
}

TEST(Objectives, choose_by_accuracy_or_by_loss) {
  const StepMemory state;
  const ParameterStore store(1, state.step());
  Task task;
  task.interface = {.vocabulary = 8, .padded_length = 4, .outputs = 2};
  Choice choice(objective_choices(), "labels");
  const Score low{.loss = 1, .accuracy = 0.5}, right{.loss = 2, .accuracy = 0.6},
      high{.loss = 3, .accuracy = 0.5};
  const auto labels = make_objective(choice, task, store);
  EXPECT_TRUE(labels->is_better(right, low));
  EXPECT_TRUE(labels->is_better(low, high)) << "equal accuracy: the lower loss";
  EXPECT_FALSE(labels->is_better(low, low));
  choice.select("masked_tokens");
  const auto tokens = make_objective(choice, task, store);
  EXPECT_TRUE(tokens->is_better(low, right));
  EXPECT_FALSE(tokens->is_better(right, low));
}

}  // namespace
}  // namespace tern::test
