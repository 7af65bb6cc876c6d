// What a run folder holds, and when its run may go on.
#include "training/run_folder.h"

#include <gtest/gtest.h>

#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "tasks/table_data.h"
#include "tern/logging.h"
#include "training/run_files.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

class RunFolderTest : public testing::Test {
 protected:
  TemporaryFolder temporary;
  fs::path data = temporary / "data", run = temporary / "run";
  void SetUp() override { logging::set_level(logging::Level::warning); }
  void TearDown() override { logging::set_level(logging::Level::info); }

  void prepare(const std::vector<std::string>& classes) const {
    std::string table = "label\ttext\n";
    for (int i = 0; i < 40; ++i) table += i % 3 == 0 ? "good\tggg\n" : "bad\tbb\n";
    write_bytes(temporary / "table.tsv", table);
    tasks::TableDataOptions options;
    options.train = options.dev = options.test = temporary / "table.tsv";
    options.classes = classes;
    tasks::TableData texts(options);
    tasks::Preparation preparation({.folder = data, .force = true}, texts.header(), texts.sources());
    texts.write(preparation);
  }
  ExperimentConfig on_texts(int steps) const {
    ExperimentConfig config = tiny_config(data, "none");
    config::load_text(config,
                      "task: {kind: classification, data: " + data.string() +
                          "}\ntraining: {steps: " + std::to_string(steps) + ", batch_size: 8}\n",
                      "texts.yaml");
    return config;
  }
  RunResult resumed(const ExperimentConfig& config, const fs::path& folder, const fs::path& checkpoint) const {
    const ThreadScope scope(1);
    Experiment experiment(config);
    const auto communicator = solo_communicator();
    Trainer trainer(experiment, *communicator, {folder, ResumeMode::path, checkpoint});
    return trainer.run();
  }
  /// All files of a folder with their bytes.
  static std::map<std::string, std::string> files_in(const fs::path& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file()) files[entry.path().string()] = read_bytes(entry.path());
    return files;
  }
};

TEST_F(RunFolderTest, data_with_renumbered_classes_are_refused_before_anything_is_written) {
  prepare({});
  train_tiny(on_texts(4), run);
  prepare({"good", "bad"});
  const auto before = files_in(run);
  const Error error = thrown_error([&] { train_tiny(on_texts(8), run); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, R"(class_names: ["bad","good"] there, ["good","bad"] now)")) << error.what();
  EXPECT_EQ(files_in(run), before);
  const fs::path checkpoint = checkpoint_path(run / "checkpoints", 4);
  EXPECT_EQ(thrown_error([&] { resumed(on_texts(8), temporary / "other", checkpoint); }).code(),
            ExitCode::bad_data);
  prepare({});  // the data are those of the beginning again
  EXPECT_EQ(resumed(on_texts(8), temporary / "another", checkpoint).progress.step, 8);
  EXPECT_EQ(train_tiny(on_texts(8), run).progress.step, 8);
}

TEST_F(RunFolderTest, without_a_checkpoint_other_data_are_as_good) {
  prepare({});
  train_tiny(on_texts(4), run);
  fs::remove_all(run / "checkpoints");
  prepare({"good", "bad"});
  train_tiny(on_texts(4), run);
  const io::Json written = io::parse_json(read_bytes(run / "task.json"), "task");
  EXPECT_EQ(written["class_names"], io::Json({"good", "bad"}));
}

TEST_F(RunFolderTest, a_schedule_that_other_steps_change_is_told) {
  prepare_tiny_data(data, 40, 16, 16);
  const auto output = [&](const std::string& schedule, int steps) {
    const ExperimentConfig config = tiny_config(
        data, "none",
        {"schedule.kind=" + schedule, "schedule.warmup=2", "training.steps=" + std::to_string(steps)});
    testing::internal::CaptureStderr();
    train_tiny(config, temporary / schedule);
    return testing::internal::GetCapturedStderr();
  };
  for (const std::string schedule : {"one_cycle", "linear", "cosine"}) {
    EXPECT_EQ(output(schedule, 6), "") << schedule;
    const std::string told = output(schedule, 9);
    EXPECT_NE(
        told.find("the schedule " + schedule + " depends on training.steps, which was 6 and is 9: at step 6 "),
        std::string::npos)
        << told;
    EXPECT_EQ(output(schedule, 9), "") << schedule;
  }
  for (const std::string schedule : {"constant", "inverse_sqrt"})
    for (const int steps : {6, 9}) EXPECT_EQ(output(schedule, steps), "") << schedule;
}

TEST_F(RunFolderTest, parameters_of_a_checkpoint_are_chosen_only_if_it_is_sound) {
  prepare_tiny_data(data, 40, 16, 16);
  train_tiny(tiny_config(data, "none", {"training.steps=3"}), run);
  const fs::path checkpoint = checkpoint_path(run / "checkpoints", 3), file = checkpoint / "model.safetensors";
  EXPECT_EQ(choose_checkpoint(file).path, checkpoint);
  EXPECT_EQ(choose_checkpoint(file).step, 3);
  fs::copy_file(file, run / "model.safetensors");
  EXPECT_EQ(choose_checkpoint(run / "model.safetensors").path, run / "model.safetensors");
  std::string bytes = read_bytes(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(file, bytes);
  const Error error = thrown_error([&] { choose_checkpoint(file); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "its bytes changed")) << error.what();
}

}  // namespace
}  // namespace tern::test
