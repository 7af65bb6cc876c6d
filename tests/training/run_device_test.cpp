// run.device and run.precision: what may be asked for, and what "auto" becomes.
#include <gtest/gtest.h>

#include "support/devices.h"
#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "tern/logging.h"

namespace tern::test {
namespace {

RunConfig run_config(const std::string& text) {
  ExperimentConfig config;
  config::load_text(config, "run: {" + text + "}", "test.yaml");
  return config.run;
}

TEST(RunDevice, automatic_choices_are_resolved) {
  const RunConfig chosen = resolved(run_config(""));
  const bool has_gpu = cuda_devices() > 0;
  EXPECT_EQ(chosen.device, has_gpu ? RunDevice::cuda : RunDevice::cpu);
  EXPECT_EQ(chosen.precision, has_gpu ? RunPrecision::bfloat16 : RunPrecision::float32);
  EXPECT_EQ(resolved(run_config("device: cpu")).precision, RunPrecision::float32);
  EXPECT_EQ(resolved(run_config("device: cuda")).precision, RunPrecision::bfloat16);
  EXPECT_EQ(resolved(run_config("device: cuda, precision: tf32")).precision, RunPrecision::tf32);
  EXPECT_FALSE(run_config("").deterministic);
  EXPECT_TRUE(run_config("").graphs);
}

TEST(RunDevice, the_cpu_computes_in_float32_only) {
  for (const std::string precision : {"tf32", "bfloat16"}) {
    const Error error = thrown_error([&] { run_config("device: cpu, precision: " + precision); });
    EXPECT_EQ(error.code(), ExitCode::bad_config);
    EXPECT_TRUE(
        mentions(error, "run.precision must be float32 (or auto) where run.device is cpu, got " + precision))
        << error.what();
    EXPECT_TRUE(mentions(error, "test.yaml:1")) << error.what();
    if (cuda_devices() > 0) continue;
    const Error later = thrown_error([&] { resolved(run_config("precision: " + precision)); });
    EXPECT_EQ(later.code(), ExitCode::bad_config) << "auto becomes the CPU here";
    EXPECT_TRUE(mentions(later, "where run.device is cpu, got " + precision)) << later.what();
  }
}

TEST(RunDevice, a_gpu_that_is_not_there_is_an_error) {
  if (cuda_devices() > 0) GTEST_SKIP() << "there is a GPU";
  const Error error =
      thrown_error([] { const Experiment experiment(tiny_config("nowhere", "none", {"run.device=cuda"})); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_TRUE(mentions(error, "run.device: cuda needs a GPU")) << error.what();
  EXPECT_TRUE(mentions(error, "set run.device=cpu")) << error.what();
}

class RunDeviceFolder : public testing::Test {
 protected:
  TemporaryFolder temporary;
  std::filesystem::path data = temporary / "data", run = temporary / "run";
  void SetUp() override {
    logging::set_level(logging::Level::error);
    prepare_tiny_data(data, 40, 16, 16);
  }
  void TearDown() override { logging::set_level(logging::Level::info); }
  ExperimentConfig config(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> all{"training.steps=3"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return tiny_config(data, "none", all);
  }
  void rewrite(const std::string& from, const std::string& to) const {
    std::string text = read_bytes(run / "config.resolved.yaml");
    const std::size_t at = text.find(from);
    ASSERT_NE(at, text.npos) << text;
    write_bytes(run / "config.resolved.yaml", text.replace(at, from.size(), to));
  }
};

TEST_F(RunDeviceFolder, the_saved_configuration_says_what_auto_became) {
  train_tiny(config({"run.precision=auto"}), run);
  const std::string saved = read_bytes(run / "config.resolved.yaml");
  EXPECT_NE(saved.find("device: cpu"), saved.npos);
  EXPECT_NE(saved.find("precision: float32"), saved.npos);
}

TEST_F(RunDeviceFolder, a_run_is_not_continued_on_another_device_without_a_word) {
  train_tiny(config(), run);
  rewrite("device: cpu", "device: cuda");
  rewrite("precision: float32", "precision: bfloat16");
  const Error error = thrown_error([&] { train_tiny(config({"training.steps=5"}), run); });
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "run.device: cuda there, cpu now")) << error.what();
  EXPECT_TRUE(mentions(error, "run.precision: bfloat16 there, float32 now")) << error.what();
}

TEST_F(RunDeviceFolder, runs_from_before_these_keys_go_on) {
  train_tiny(config(), run);
  rewrite("  precision: float32\n", "");
  rewrite("  deterministic: false\n", "");
  EXPECT_EQ(train_tiny(config({"training.steps=5"}), run).progress.step, 5);
}

}  // namespace
}  // namespace tern::test
