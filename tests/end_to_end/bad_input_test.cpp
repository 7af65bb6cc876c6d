// What a person or a machine can get wrong around a run: each ends in a message and a code, and nothing is
// lost.
#include <cmath>
#include <set>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "tern/logging.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

class BadInputTest : public testing::Test {
 protected:
  TemporaryFolder temporary;
  fs::path data = temporary / "data", run = temporary / "run";
  void SetUp() override {
    logging::set_level(logging::Level::error);
    prepare_tiny_data(data);
  }
  void TearDown() override { logging::set_level(logging::Level::info); }

  /// A rate that soon does more harm than good, so that the best checkpoint is not the last.
  ExperimentConfig rough_config(std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.end(),
                     {"optimizer.learning_rate=0.3", "run.seed=5", "training.evaluate_every=2"});
    return config(overrides);
  }
  ExperimentConfig config(const std::vector<std::string>& overrides = {}) const {
    return tiny_config(data, "softmax", overrides);
  }
  Error error_of(const ExperimentConfig& chosen) const {
    return thrown_error([&] { train_tiny(chosen, run); });
  }
};

TEST_F(BadInputTest, missing_data_name_the_command_that_makes_them) {
  for (const char* split : {"test.records", "dev.records", "train.records"}) {
    fs::remove(data / split);
    const Error error = error_of(config());
    EXPECT_EQ(error.code(), ExitCode::missing_input);
    EXPECT_TRUE(mentions(error, (data / split).string())) << error.what();
    EXPECT_TRUE(mentions(error, "tern data prepare listops")) << error.what();
    EXPECT_FALSE(fs::exists(run)) << "no run folder without data";
  }
}

TEST_F(BadInputTest, damaged_records_are_found_before_the_first_step) {
  for (const std::string split : {"train.records", "dev.records", "test.records"}) {
    const std::string original = read_bytes(data / split);
    const auto expect_refused = [&](const std::string& bytes, const std::string& what) {
      write_bytes(data / split, bytes);
      const Error error = error_of(config());
      EXPECT_EQ(error.code(), ExitCode::bad_data) << split << " " << what;
      EXPECT_TRUE(mentions(error, (data / split).string())) << error.what();
    };
    for (const std::size_t length : {std::size_t{0}, std::size_t{11}, std::size_t{5000}, original.size() - 1})
      expect_refused(original.substr(0, length), "cut to " + std::to_string(length));
    for (std::size_t part = 0; part < 12; ++part) {
      std::string flipped = original;
      const std::size_t at = part * (original.size() - 1) / 11;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << part % 8));
      expect_refused(flipped, "flipped at " + std::to_string(at));
    }
    write_bytes(data / split, original);
  }
  EXPECT_FALSE(fs::exists(run));
}

TEST_F(BadInputTest, an_unwritable_run_folder_is_refused) {
  write_bytes(temporary / "file", "x");
  for (const fs::path& folder : {temporary / "file" / "run", temporary / "file"}) {
    const Error error = thrown_error([&] { train_tiny(config(), folder); });
    EXPECT_EQ(error.code(), ExitCode::cannot_create) << error.what();
    EXPECT_TRUE(mentions(error, (temporary / "file").string())) << error.what();
  }
}

TEST_F(BadInputTest, too_little_space_is_told_before_the_first_step) {
  // 38 TiB of checkpoints.
  const Error error = error_of(config({"training.keep_checkpoints=1000000", "model.hidden_width=100000"}));
  EXPECT_TRUE(mentions(error, "1000002 checkpoints")) << error.what();
  EXPECT_EQ(error.code(), ExitCode::cannot_create);
  EXPECT_TRUE(mentions(error, "KiB")) << error.what();
  EXPECT_FALSE(fs::exists(run / "metrics.jsonl"));
}

TEST_F(BadInputTest, a_changed_configuration_is_refused_with_its_keys) {
  train_tiny(config({"training.steps=4"}), run);
  const std::string before = read_bytes(run / "config.resolved.yaml");
  const Error error =
      error_of(config({"training.steps=8", "optimizer.learning_rate=1e-2", "model.attention.kind=none"}));
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "optimizer.learning_rate: 0.003 there, 0.01 now")) << error.what();
  EXPECT_TRUE(mentions(error, "model.attention.kind")) << error.what();
  EXPECT_FALSE(mentions(error, "training.steps")) << error.what();
  EXPECT_EQ(read_bytes(run / "config.resolved.yaml"), before);
  EXPECT_EQ(train_tiny(config({"training.steps=8"}), run).progress.step, 8) << "more steps may be asked for";
}

TEST_F(BadInputTest, before_the_first_checkpoint_the_configuration_may_change) {
  thrown_error([&] {
    train_tiny(config(), run,
               [](Experiment&) { throw_error(ExitCode::failed, "stopped before the first step"); });
  });
  EXPECT_TRUE(fs::exists(run / "config.resolved.yaml"));
  EXPECT_EQ(train_tiny(config({"training.steps=4", "optimizer.learning_rate=1e-2"}), run).progress.step, 4);
}

TEST_F(BadInputTest, a_finished_run_can_be_asked_again) {
  const RunResult first = train_tiny(config(), run), again = train_tiny(config(), run);
  EXPECT_EQ(again.fingerprint, first.fingerprint);
  EXPECT_EQ(again.test.all.accuracy, first.test.all.accuracy);
}

TEST_F(BadInputTest, a_damaged_best_checkpoint_is_made_up_for) {
  const RunResult first = train_tiny(rough_config(), run);
  ASSERT_LT(first.progress.best_step, 12);
  fs::remove(checkpoint_path(run / "checkpoints", first.progress.best_step) / "model.safetensors");
  const RunResult again = train_tiny(rough_config(), run);
  EXPECT_EQ(again.fingerprint, first.fingerprint);
  EXPECT_EQ(again.progress.best_step, 12) << "evaluated anew";
  EXPECT_GT(again.test.all.examples, 0);
  EXPECT_EQ(verify_checkpoint(checkpoint_path(run / "checkpoints", 12)).fault, "");
}

TEST_F(BadInputTest, a_run_can_start_from_a_checkpoint_of_another_folder_or_an_earlier_one) {
  const ExperimentConfig chosen = config({"training.keep_checkpoints=9"});
  const RunResult whole = train_tiny(chosen, run);
  for (const fs::path& folder : {temporary / "elsewhere", run}) {
    const ThreadScope scope(1);
    Experiment experiment(chosen);
    const auto communicator = solo_communicator();
    Trainer trainer(experiment, *communicator,
                    {folder, ResumeMode::path, checkpoint_path(run / "checkpoints", 6)});
    const RunResult result = trainer.run();
    EXPECT_EQ(result.fingerprint, whole.fingerprint);
    EXPECT_EQ(verify_checkpoint(checkpoint_path(folder / "checkpoints", 12)).fault, "");
  }
  EXPECT_TRUE(fs::exists(run / "checkpoints" / "step-00000012.abandoned" / "MANIFEST.json"));
}

TEST_F(BadInputTest, only_skipped_updates_in_a_row_end_a_run) {
  const ThreadScope scope(1);
  Experiment experiment(config({"training.max_skipped=2"}));
  const auto communicator = solo_communicator();
  Trainer trainer(experiment, *communicator, RunOptions{run, ResumeMode::newest, {}});
  const Tensor& values = experiment.store.values();
  const Tensor broken = full(values.shape(), NAN, values.dtype());
  for (int i = 0; i < 3; ++i) {
    const std::vector<float> sound = values.to_vector<float>();
    copy(broken, values);
    trainer.step();
    copy(from_vector(sound, values.shape()), values);
    trainer.step();
  }
  copy(broken, values);
  trainer.step();
  EXPECT_EQ(thrown_error([&] { trainer.step(); }).code(), ExitCode::diverged);
}

TEST_F(BadInputTest, divergence_skips_names_the_batches_and_ends) {
  const ThreadScope scope(1);
  Experiment experiment(
      config({"optimizer.learning_rate=1e30", "training.steps=500", "training.checkpoint_every=1",
              "training.evaluate_every=500", "training.log_samples=true"}));
  const auto communicator = solo_communicator();
  auto trainer = std::make_unique<Trainer>(experiment, *communicator, RunOptions{run, ResumeMode::newest, {}});
  const Error error = thrown_error([&] { trainer->run(); });
  EXPECT_EQ(error.code(), ExitCode::diverged);
  EXPECT_TRUE(mentions(error, "10 times in a row")) << error.what();
  for (const Tensor& block :
       {experiment.store.values(), experiment.optimizer.first_moment(), experiment.optimizer.second_moment()})
    for (const double value : block.to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
  const auto found = list_checkpoints(run / "checkpoints");
  ASSERT_FALSE(found.empty()) << "skipped steps must not push the good ones out";
  EXPECT_TRUE(mentions(error, found.back().path.string())) << error.what();

  int anomalies = 0;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (!entry.path().filename().string().starts_with("anomaly-")) continue;
    ++anomalies;
    const io::Json anomaly = io::parse_json(read_bytes(entry.path()), "anomaly");
    EXPECT_EQ(entry.path().filename(), "anomaly-" + anomaly["step"].dump() + ".json");
    EXPECT_EQ(anomaly["gradient_norm"].size(), experiment.store.parameters().size());
    for (const std::string& text : metrics_rows(run / "metrics.jsonl")) {
      const io::Json row = io::parse_json(text, "row");
      if (row["step"] != anomaly["step"]) continue;
      EXPECT_EQ(anomaly["samples"], row["samples"]);
    }
    EXPECT_EQ(anomaly["samples"].size(), 16u);
  }
  EXPECT_GE(anomalies, 10);
  EXPECT_EQ(error_of(experiment.config).code(), ExitCode::cannot_create) << "the folder has one writer";
  trainer.reset();
  // Asked again, it diverges again: it does not begin anew, nor go on from nothing.
  EXPECT_EQ(error_of(experiment.config).code(), ExitCode::diverged);
}

TEST_F(BadInputTest, one_failed_save_at_any_time_changes_no_result) {
  const ExperimentConfig chosen = rough_config({"training.checkpoint_every=4"});
  const RunResult whole = train_tiny(chosen, run);
  ASSERT_LT(whole.progress.best_step, 12);
  int went_on = 0, ended = 0;
  std::set<std::int64_t> best_steps;
  for (int call = 1; call <= 61; call += 4) {
    SCOPED_TRACE("fsync " + std::to_string(call));
    const fs::path folder = temporary / ("fault-" + std::to_string(call));
    std::optional<FileFault> fault;
    RunResult result;
    try {
      const auto opened = [&](Experiment&) { fault.emplace("fsync:" + std::to_string(call) + ":enospc"); };
      result = train_tiny(chosen, folder, opened);
      best_steps.insert(result.progress.best_step);
      ++went_on;
    } catch (const Error& error) {  // after the last save there is no other
      EXPECT_EQ(error.code(), ExitCode::io_error) << error.what();
      EXPECT_TRUE(mentions(error, "step-00000012") || mentions(error, "result.json")) << error.what();
      ++ended;
      result = train_tiny(chosen, folder);
    }
    EXPECT_EQ(result.fingerprint, whole.fingerprint);
    EXPECT_EQ(verify_checkpoint(checkpoint_path(folder / "checkpoints", result.progress.best_step)).fault, "");
  }
  EXPECT_GE(went_on, 9);
  EXPECT_GE(ended, 1);
  EXPECT_GE(best_steps.size(), 2u) << "a best that never reached the disk must not be remembered";
}

/// A disk that stays full: the third save in a row that fails ends the run, and a later start continues it.
void check_full_disk(const ExperimentConfig& start, const ExperimentConfig& more, const fs::path& run,
                     const std::function<void()>& fill, const std::function<void()>& empty) {
  train_tiny(start, run);
  const auto before = list_checkpoints(run / "checkpoints");
  ASSERT_FALSE(before.empty());
  const Error error = thrown_error([&] {
    try {
      train_tiny(more, run, [&](Experiment&) { fill(); });
    } catch (...) {
      empty();
      throw;
    }
  });
  EXPECT_EQ(error.code(), ExitCode::io_error) << error.what();
  EXPECT_TRUE(mentions(error, "step-00000016")) << "the third after steps 8 and 12: " << error.what();
  for (const CheckpointStatus& status : before)
    EXPECT_EQ(verify_checkpoint(status.path).fault, "") << "nothing is lost";
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp-")) << entry.path();
  EXPECT_EQ(train_tiny(more, run).progress.step, 19) << "with space again, the run goes on";
}

ExperimentConfig full_disk_config(const fs::path& data, int steps) {
  return tiny_config(data, "softmax",
                     {"training.steps=" + std::to_string(steps), "training.evaluate_every=100",
                      "training.checkpoint_every=4", "model.hidden_width=300"});
}

TEST_F(BadInputTest, files_that_cannot_grow_end_the_run_after_three_saves) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small{30000, limit.rlim_max};
  check_full_disk(
      full_disk_config(data, 4), full_disk_config(data, 19), run, [&] { ::setrlimit(RLIMIT_FSIZE, &small); },
      [&] { ::setrlimit(RLIMIT_FSIZE, &limit); });
  ::signal(SIGXFSZ, SIG_DFL);
}

/// A file system of 1 MiB, where this user may mount one.
class SmallDisk {
 public:
  explicit SmallDisk(const fs::path& path) : path_(path) {
    fs::create_directory(path);
    is_mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=1m") == 0;
  }
  ~SmallDisk() {
    if (is_mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool is_mounted() const { return is_mounted_; }

 private:
  fs::path path_;
  bool is_mounted_ = false;
};

TEST_F(BadInputTest, a_full_disk_ends_the_run_after_three_saves) {
  const fs::path disk = temporary / "disk";
  const SmallDisk small(disk);
  if (!small.is_mounted()) GTEST_SKIP() << "this user may not mount a file system";
  const auto fill = [&] {
    std::ofstream file(disk / "filler", std::ios::binary);
    const std::string block(4096, 'x');
    while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) continue;
  };
  check_full_disk(full_disk_config(data, 4), full_disk_config(data, 19), disk / "run", fill,
                  [&] { fs::remove(disk / "filler"); });
  // And with the disk full from the start, no step is made.
  fill();
  const Error error = thrown_error([&] { train_tiny(full_disk_config(data, 19), disk / "other"); });
  EXPECT_TRUE(error.code() == ExitCode::cannot_create || error.code() == ExitCode::io_error) << error.what();
}

}  // namespace
}  // namespace tern::test
