// Training that starts from another run's encoder.
#include "training/start.h"

#include <gtest/gtest.h>

#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "tern/logging.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

class StartTest : public testing::Test {
 protected:
  TemporaryFolder temporary;
  fs::path data = temporary / "data", before = temporary / "before", after = temporary / "after";
  void SetUp() override {
    logging::set_level(logging::Level::error);
    prepare_tiny_data(data);
  }
  void TearDown() override { logging::set_level(logging::Level::info); }
  ExperimentConfig config(const std::vector<std::string>& overrides = {}) const {
    return tiny_config(data, "softmax", overrides);
  }
  /// Pre-trains in `before`.
  RunResult pretrain() const { return train_tiny(config({"objective.kind=masked_tokens"}), before); }
  ExperimentConfig started(std::vector<std::string> overrides = {}) const {
    overrides.push_back("training.start_from=" + before.string());
    return config(overrides);
  }
};

std::map<std::string, std::vector<double>> values_of(const ParameterStore& store) {
  std::map<std::string, std::vector<double>> values;
  for (const Parameter& parameter : store.parameters())
    values[parameter.path] = parameter.master.to_vector<double>();
  return values;
}

TEST_F(StartTest, takes_the_best_encoder_and_leaves_the_head) {
  const RunResult first = pretrain();
  Experiment source(config({"objective.kind=masked_tokens"})), fresh(config());
  load_parameters(checkpoint_path(before / "checkpoints", first.progress.best_step), source.store);
  const auto taken = values_of(source.store), initial = values_of(fresh.store);
  std::map<std::string, std::vector<double>> start;
  train_tiny(started(), after, [&](Experiment& experiment) { start = values_of(experiment.store); });
  int compared = 0;
  for (const auto& [path, values] : start) {
    const bool is_taken = path.starts_with("encoder.");
    EXPECT_EQ(values, is_taken ? taken.at(path) : initial.at(path)) << path;
    compared += is_taken;
  }
  EXPECT_GT(compared, 10);
  EXPECT_NE(start.at("encoder.token_embedding.weight"), initial.at("encoder.token_embedding.weight"));
  const io::Json result = io::parse_json(read_bytes(after / "result.json"), "result");
  EXPECT_EQ(result["start"]["source"], before.string());
  EXPECT_EQ(result["start"]["step"], first.progress.best_step);
  const std::string best = checkpoint_path("checkpoints", first.progress.best_step).string();
  EXPECT_EQ(result["start"]["file"], best + "/model.safetensors") << "as it lies in the source";
}

TEST_F(StartTest, names_the_file_as_it_lies_in_what_was_given) {
  const RunResult first = pretrain();
  const fs::path checkpoint = checkpoint_path(before / "checkpoints", first.progress.best_step);
  for (const fs::path& source : {checkpoint, checkpoint / "model.safetensors"}) {
    Experiment experiment(config());
    const io::Json start = start_from(source, experiment.store);
    EXPECT_EQ(start["source"], source.string());
    EXPECT_EQ(start["file"], "model.safetensors");
    EXPECT_EQ(start["step"], first.progress.best_step);
  }
}

TEST_F(StartTest, a_run_must_have_finished) {
  const RunResult first = pretrain();
  fs::remove(before / "result.json");  // as in a run that was stopped
  const fs::path checkpoint = checkpoint_path(before / "checkpoints", first.progress.best_step);
  Experiment experiment(config());
  const Error error = thrown_error([&] { start_from(before, experiment.store); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, checkpoint.filename().string())) << error.what();
  EXPECT_EQ(start_from(checkpoint, experiment.store)["step"], first.progress.best_step);
}

TEST_F(StartTest, a_resumed_run_does_not_start_again) {
  pretrain();
  const RunResult whole = train_tiny(started(), temporary / "whole");
  train_tiny(started({"training.steps=5"}), after);
  fs::remove_all(before);  // all it gave is in the checkpoint
  EXPECT_EQ(train_tiny(started(), after).progress.step, 12);
  const io::Json result = io::parse_json(read_bytes(after / "result.json"), "result");
  EXPECT_EQ(result["fingerprint"], whole.fingerprint);
  EXPECT_EQ(result["start"]["source"], before.string());
}

TEST_F(StartTest, goes_on_in_another_folder) {
  pretrain();
  const RunResult whole = train_tiny(started({"training.keep_checkpoints=9"}), after);
  const auto continued = [&](const ExperimentConfig& chosen, const fs::path& folder) {
    const ThreadScope scope(1);
    Experiment experiment(chosen);
    const auto communicator = solo_communicator();
    Trainer trainer(
        experiment, *communicator,
        {folder, ResumeMode::path, checkpoint_path(after / "checkpoints", whole.progress.best_step)});
    return trainer.run();
  };
  const fs::path elsewhere = temporary / "elsewhere";
  EXPECT_EQ(continued(started({"training.keep_checkpoints=9"}), elsewhere).fingerprint, whole.fingerprint);
  EXPECT_EQ(read_bytes(elsewhere / "start.json"), read_bytes(after / "start.json"));
  const io::Json result = io::parse_json(read_bytes(elsewhere / "result.json"), "result");
  EXPECT_EQ(result["start"]["source"], before.string());
  fs::remove(after / "start.json");
  const Error error =
      thrown_error([&] { continued(started({"training.keep_checkpoints=9"}), temporary / "third"); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_TRUE(mentions(error, "training.start_from")) << error.what();
}

TEST_F(StartTest, differences_of_the_encoders_are_named) {
  pretrain();
  const auto error_of = [&](const std::vector<std::string>& overrides) {
    return thrown_error([&] { train_tiny(started(overrides), after); });
  };
  Error error = error_of({"task.padded_length=64"});
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "encoder.position_embedding.weight must be float32 [64, 16] for this model"));
  error = error_of({"model.layers=2"});
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "has no encoder.layers.1."));
  error = error_of({"model.positions=sinusoidal"});
  EXPECT_TRUE(mentions(error, "holds encoder.position_embedding.weight, which this model does not have"));
  fs::remove_all(before);
  EXPECT_EQ(error_of({}).code(), ExitCode::missing_input);
  EXPECT_FALSE(fs::exists(after / "initial.safetensors")) << "nothing was trained";
}

}  // namespace
}  // namespace tern::test
