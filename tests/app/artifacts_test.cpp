// Commands on files: data, checkpoint, evaluate.
#include <cmath>
#include <fstream>
#include <numeric>

#include <gtest/gtest.h>

#include "app/command.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

int code_of(ExitCode code) { return static_cast<int>(code); }

void flip_byte(const fs::path& file, std::int64_t at) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(at);
  const int byte = stream.get();
  stream.seekp(at);
  stream.put(static_cast<char>(byte ^ 1));
  ASSERT_TRUE(stream.flush());
}

io::Json json_file(const fs::path& path) { return io::parse_json(read_bytes(path), path.string()); }

std::vector<float> values_of(const io::TensorRecord& record) {
  std::vector<float> values(record.bytes.size() / sizeof(float));
  std::memcpy(values.data(), record.bytes.data(), record.bytes.size());
  return values;
}

TEST(Data, PrepareIsRepeatableAndKeepsOtherData) {
  const TemporaryFolder folder;
  const std::vector<std::string> arguments{
      "data",         "prepare", "listops",      "--out",  (folder / "data").string(),
      "--min-length", "5",       "--max-length", "30",     "--train",
      "60",           "--dev",   "20",           "--test", "21"};
  const Outcome first = tern_command(arguments);
  EXPECT_EQ(first.code, 0) << first.err;
  for (const char* word : {"train", "majority", "label 9", "101 records", " s\n"})
    EXPECT_TRUE(holds(first.out, word)) << word;
  const std::string before = read_bytes(folder / "data/train.records");

  const Outcome second = tern_command(arguments);
  EXPECT_EQ(second.code, 0);
  EXPECT_TRUE(holds(second.out, "nothing to do"));

  std::vector<std::string> other = arguments;
  other.insert(other.end(), {"--seed", "1"});
  EXPECT_EQ(tern_command(other).code, code_of(ExitCode::cannot_create));
  EXPECT_EQ(read_bytes(folder / "data/train.records"), before);
  other.push_back("--force");
  EXPECT_EQ(tern_command(other).code, 0);
  EXPECT_NE(read_bytes(folder / "data/train.records"), before);
}

TEST(Data, DamageIsFoundAndPreparingAgainRepairsIt) {
  const TemporaryFolder folder;
  const std::string data = (folder / "data").string();
  prepare_short_data(data);
  EXPECT_EQ(tern_command({"data", "verify", data}).code, 0);
  const std::string before = read_bytes(folder / "data/dev.records");
  flip_byte(folder / "data/dev.records", 4100);
  const Outcome outcome = tern_command({"data", "verify", data});
  EXPECT_EQ(outcome.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(outcome.out, "damaged  " + data + "/dev.records"));
  EXPECT_TRUE(holds(outcome.out, "ok       " + data + "/train.records: 60 records"));
  EXPECT_TRUE(holds(outcome.err, "tokens section"));
  prepare_short_data(data);
  EXPECT_EQ(read_bytes(folder / "data/dev.records"), before);
  EXPECT_EQ(tern_command({"data", "verify", data + "/absent.records"}).code, code_of(ExitCode::missing_input));
}

TEST(Data, InfoCountsTheLabels) {
  const TemporaryFolder folder;
  const std::string data = (folder / "data").string();
  prepare_short_data(data);
  const Outcome text = tern_command({"data", "info", data}),
                json = tern_command({"data", "info", data, "--json"});
  EXPECT_EQ(text.code + json.code, 0);
  const io::Json all = io::parse_json(json.out, "output");
  ASSERT_EQ(all.size(), 3U);
  const std::vector<std::pair<std::string, std::int64_t>> expected{{"dev", 20}, {"test", 21}, {"train", 60}};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(all[i]["split"], expected[i].first);
    const auto counts = all[i]["label_counts"].get<std::vector<std::int64_t>>();
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), expected[i].second);
    EXPECT_TRUE(holds(text.out, io::dump_json(all[i]["label_counts"])));
  }
}

/// A finished short run, shared by the tests below.
class RunCommands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    prepare_short_data(*folder_ / "data");
    const Outcome trained = tern_command(short_training(*folder_ / "data", *folder_ / "run", 4));
    if (trained.code != 0) throw std::runtime_error(trained.err);
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::string path(const std::string& name) { return (*folder_ / name).string(); }

 private:
  static std::unique_ptr<TemporaryFolder> folder_;
};
std::unique_ptr<TemporaryFolder> RunCommands::folder_;

TEST_F(RunCommands, EvaluateRepeatsTheScoresOfTheRun) {
  const io::Json result = json_file(path("run/result.json"));
  const Outcome test = tern_command({"evaluate", path("run"), "--json"});
  ASSERT_EQ(test.code, 0) << test.err;
  const io::Json scored = io::parse_json(test.out, "output");
  EXPECT_EQ(scored["step"], result["best_step"]);
  EXPECT_EQ(scored["draws"][0]["all"], result["test"]);
  EXPECT_EQ(scored["draws"][0]["drop_last"], result["test_drop_last"]);
  EXPECT_EQ(result["test"]["examples"], 21);
  EXPECT_EQ(result["test_drop_last"]["examples"], 16);
  const Outcome dev = tern_command({"evaluate", path("run"), "--split", "dev", "--json"});
  EXPECT_EQ(io::parse_json(dev.out, "output")["draws"][0]["all"]["accuracy"], result["dev_accuracy"]);
  const Outcome file = tern_command({"evaluate", path("run"), "--records", path("data/dev.records"), "--json"});
  EXPECT_EQ(io::parse_json(file.out, "output")["draws"], io::parse_json(dev.out, "output")["draws"]);
}

TEST_F(RunCommands, SampledScoresAreThoseOfTheBestStep) {
  std::vector<std::string> arguments = short_training(path("data"), path("overshot"), 6);
  arguments.insert(arguments.end(), {"--set", "optimizer.learning_rate=3"});
  const Outcome trained = tern_command(arguments);
  ASSERT_EQ(trained.code, 0) << trained.err;
  const io::Json result = json_file(path("overshot/result.json"));
  ASSERT_LT(result["best_step"], 6) << "else the last step draws the same hashes";
  const Outcome evaluated = tern_command({"evaluate", path("overshot"), "--json"});
  EXPECT_EQ(io::parse_json(evaluated.out, "output")["draws"][0]["all"], result["test"]);
}

TEST_F(RunCommands, NoScoreIsGivenOfWholeBatchesWhereThereIsNone) {
  std::vector<std::string> arguments = short_training(path("data"), path("one-batch"), 2);
  arguments.insert(arguments.end(), {"--set", "training.batch_size=32"});
  for (const Outcome& outcome : {tern_command(arguments), tern_command({"evaluate", path("one-batch")})}) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(holds(outcome.out, "accuracy")) << outcome.out;
    EXPECT_FALSE(holds(outcome.out, "drop last")) << outcome.out;
  }
}

TEST_F(RunCommands, EvaluateDrawsHashesAnew) {
  const Outcome outcome = tern_command({"evaluate", path("run"), "--hash-draws", "3", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const io::Json scored = io::parse_json(outcome.out, "output");
  std::vector<double> accuracies, losses;
  for (const io::Json& draw : scored["draws"]) {
    accuracies.push_back(draw["all"]["accuracy"]);
    losses.push_back(draw["all"]["loss"]);
  }
  ASSERT_EQ(accuracies.size(), 3U);
  EXPECT_NE(losses[0], losses[1]);
  const double mean = (accuracies[0] + accuracies[1] + accuracies[2]) / 3;
  double squares = 0;
  for (const double accuracy : accuracies) squares += (accuracy - mean) * (accuracy - mean);
  EXPECT_NEAR(scored["accuracy_mean"].get<double>(), mean, 1e-12);
  EXPECT_NEAR(scored["accuracy_deviation"].get<double>(), std::sqrt(squares / 2), 1e-12);
  EXPECT_TRUE(holds(tern_command({"evaluate", path("run"), "--hash-draws", "3"}).out, " +- "));
}

TEST_F(RunCommands, EvaluateRefusesWhatIsNotARun) {
  EXPECT_EQ(tern_command({"evaluate", path("data")}).code, code_of(ExitCode::missing_input));
  EXPECT_EQ(tern_command({"evaluate", path("absent")}).code, code_of(ExitCode::missing_input));
  EXPECT_EQ(tern_command({"evaluate", path("run"), "--records", path("absent")}).code,
            code_of(ExitCode::missing_input));
}

TEST_F(RunCommands, CheckpointListMarksTheBest) {
  const Outcome outcome = tern_command({"checkpoint", "list", path("run"), "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const io::Json all = io::parse_json(outcome.out, "output");
  ASSERT_EQ(all.size(), 2U);
  const io::Json best = json_file(path("run/result.json"))["best_step"];
  for (const io::Json& checkpoint : all) {
    EXPECT_EQ(checkpoint["is_best"].get<bool>(), checkpoint["step"] == best);
    EXPECT_EQ(checkpoint["fault"], "");
    EXPECT_GT(checkpoint["bytes"].get<double>(), 1000);
  }
}

TEST_F(RunCommands, CheckpointAverageIsTheMean) {
  const std::string first = path("run/checkpoints/step-00000002"),
                    second = path("run/checkpoints/step-00000004");
  const std::vector<std::string> arguments{"checkpoint", "average", path("run/mean.safetensors"), first,
                                           second};
  const Outcome outcome = tern_command(arguments);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const io::SafetensorsFile a(first + "/model.safetensors"), b(second + "/model.safetensors"),
      mean(path("run/mean.safetensors"));
  ASSERT_FALSE(mean.tensors().empty());
  std::size_t differing = 0;
  for (const io::TensorRecord& record : mean.tensors()) {
    const std::vector<float> x = values_of(a.at(record.name)), y = values_of(b.at(record.name)),
                             z = values_of(record);
    ASSERT_EQ(z.size(), x.size());
    for (std::size_t i = 0; i < z.size(); ++i) {
      ASSERT_NEAR(z[i], (double{x[i]} + double{y[i]}) / 2, 1e-7) << record.name;
      differing += x[i] != y[i] ? 1 : 0;
    }
  }
  EXPECT_GT(differing, 100U);
  EXPECT_EQ(tern_command(arguments).code, code_of(ExitCode::cannot_create));
  EXPECT_EQ(tern_command({"evaluate", path("run/mean.safetensors")}).code, 0);
}

TEST_F(RunCommands, DamagedCheckpointIsNamed) {
  const fs::path copy = path("copy");
  fs::copy(path("run"), copy, fs::copy_options::recursive);
  EXPECT_EQ(tern_command({"checkpoint", "verify", copy}).code, 0);
  const fs::path file = copy / "checkpoints/step-00000004/model.safetensors";
  flip_byte(file, static_cast<std::int64_t>(fs::file_size(file)) - 3);
  const Outcome verify = tern_command({"checkpoint", "verify", copy});
  EXPECT_EQ(verify.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(verify.out, "damaged  " + file.parent_path().string()));
  EXPECT_TRUE(holds(verify.err, file.string()));
  const Outcome list = tern_command({"checkpoint", "list", copy});
  EXPECT_EQ(list.code, 0);
  EXPECT_TRUE(holds(list.out, "damaged"));
  EXPECT_EQ(tern_command({"evaluate", file.parent_path()}).code, code_of(ExitCode::bad_data));
  fs::remove_all(copy);
}

TEST(Train, AWarmUpLongerThanTheRunIsTold) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  const auto output = [&](const std::string& name, const std::string& warmup) {
    std::vector<std::string> arguments = short_training(folder / "data", folder / name, 4);
    arguments.insert(arguments.end(),
                     {"--set", "schedule.kind=constant", "--set", "schedule.warmup=" + warmup});
    const Outcome outcome = tern_command(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.err;
  };
  EXPECT_TRUE(holds(output("long", "8"), "the schedule reaches 0.50 of optimizer.learning_rate in 4 steps"));
  EXPECT_FALSE(holds(output("short", "4"), "the schedule reaches"));
}

TEST(Train, DataOfAnotherTaskAreRefused) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  const Outcome outcome =
      tern_command({"train", config_file("lra/image.yaml"), "--out", (folder / "run").string(), "--set",
                    "task.data=" + (folder / "data").string(), "--set", "run.device=cpu"});
  EXPECT_EQ(outcome.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(outcome.err, "must hold data of the task image, got listops")) << outcome.err;
  EXPECT_FALSE(fs::exists(folder / "run"));
}

}  // namespace
}  // namespace tern::test
