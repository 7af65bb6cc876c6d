// Commands that only tell: list, describe, config, doctor.
#include <algorithm>

#include <gtest/gtest.h>

#include "app/command.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/attention.h"
#include "tern/error.h"
#include "tern/objective.h"
#include "tern/optimizer.h"
#include "tern/task.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

io::Json json_of(std::vector<std::string> arguments) {
  arguments.push_back("--json");
  const Outcome outcome = tern_command(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return io::parse_json(outcome.out, "output");
}

/// Compares names and option keys of a list with the registered kinds, as text and as JSON.
void expect_lists(const std::string& word, std::span<const ChoiceKind> kinds) {
  const Outcome outcome = tern_command({"list", word});
  const io::Json json = json_of({"list", word});
  ASSERT_EQ(json.size(), kinds.size());
  ASSERT_FALSE(kinds.empty());
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    EXPECT_EQ(json[i]["name"], kinds[i].name);
    EXPECT_TRUE(holds(outcome.out, kinds[i].name + ": " + kinds[i].summary));
    const std::unique_ptr<Record> record = kinds[i].make();
    Fields fields;
    record->fields(fields);
    ASSERT_EQ(json[i]["options"].size(), fields.list().size());
    for (std::size_t f = 0; f < fields.list().size(); ++f) {
      EXPECT_EQ(json[i]["options"][f]["key"], fields.list()[f].key);
      EXPECT_TRUE(holds(outcome.out, "." + fields.list()[f].key)) << outcome.out;
      EXPECT_TRUE(holds(outcome.out, fields.list()[f].meaning)) << outcome.out;
    }
  }
}

TEST(List, NamesEveryKindAndOption) {
  expect_lists("attention", attention_choices());
  expect_lists("tasks", task_choices());
  expect_lists("objectives", objective_choices());
  expect_lists("schedules", schedule_choices());
  EXPECT_EQ(json_of({"list", "devices"})[0]["name"], "cpu");
}

TEST(List, AttentionShowsTraits) {
  const io::Json json = json_of({"list", "attention"});
  ASSERT_EQ(json.size(), attention_kinds().size());
  for (std::size_t i = 0; i < json.size(); ++i) {
    const AttentionTraits& traits = attention_kinds()[i].traits;
    EXPECT_EQ(json[i]["traits"]["exact"], traits.exact);
    EXPECT_EQ(json[i]["traits"]["stochastic"], traits.stochastic);
    EXPECT_EQ(json[i]["traits"]["time"], traits.time == Growth::linear ? "linear" : "quadratic");
  }
}

TEST(Describe, PublishedParameterCountWithoutData) {
  for (const std::string kind : {"softmax", "yoso"}) {
    const std::vector<std::string> arguments{"describe", config_file("lra/listops.yaml"), "--set",
                                             "model.attention.kind=" + kind};
    const Outcome outcome = tern_command(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(holds(outcome.out, "209,802")) << outcome.out;
    const io::Json json = json_of(arguments);
    EXPECT_EQ(json["parameter_count"], 209802);
    std::int64_t sum = 0;
    for (const io::Json& parameter : json["parameters"]) {
      std::int64_t count = 1;
      for (const io::Json& extent : parameter["shape"]) count *= extent.get<std::int64_t>();
      EXPECT_EQ(count, parameter["count"].get<std::int64_t>()) << parameter["path"];
      sum += count;
    }
    EXPECT_EQ(sum, 209802);
  }
}

TEST(Describe, BeginsWithTheModelAndLeavesTheConfigurationOut) {
  const std::string pair = tern_command({"describe", config_file("lra/retrieval.yaml")}).out;
  EXPECT_TRUE(pair.starts_with("task        retrieval: pairs of sequences of at most 4,096 tokens, ")) << pair;
  const std::string text = tern_command({"describe", config_file("lra/listops.yaml"), "--set", "model.layers=1",
                                         "--set", "objective.kind=masked_tokens"})
                               .out;
  EXPECT_TRUE(holds(text, "listops: sequences of at most 2,048 tokens, 32 ids, hidden tokens\n")) << text;
  EXPECT_TRUE(holds(text, "model       1 layer of width 64, 2 heads, hidden width 128\n")) << text;
  EXPECT_LT(text.find("estimates by length"), text.find("encoder.token_embedding.weight")) << text;
  EXPECT_EQ(text.find("learning_rate"), text.npos) << "tern config show prints the configuration";
}

TEST(Describe, CostsFollowTheLengths) {
  const io::Json costs =
      json_of({"describe", config_file("lra/listops.yaml"), "--lengths", "100,200"})["costs"];
  ASSERT_EQ(costs.size(), 2U);
  EXPECT_EQ(costs[0]["length"], 100);
  // 2 layers of 4 width^2 + 2 width hidden for each token and 2 length^2 width, and the head: multiply-adds,
  // twice
  const double expected =
      2 * (2 * (100 * (4 * 64 * 64 + 2 * 64 * 128.0) + 2 * 100 * 100 * 64.0) + 128 * (64 + 10));
  EXPECT_DOUBLE_EQ(costs[0]["forward_operations"].get<double>(), expected);
  EXPECT_DOUBLE_EQ(costs[0]["training_operations"].get<double>(), 3 * expected);
  EXPECT_DOUBLE_EQ(costs[0]["step_operations"].get<double>(), 32 * 3 * expected);
  EXPECT_GT(costs[1]["step_bytes"].get<double>(), costs[0]["step_bytes"].get<double>());
}

TEST(Describe, MemoryIsThatOfTheConfiguredType) {
  const auto described = [](const std::string& precision) {
    return json_of({"describe", config_file("lra/listops.yaml"), "--lengths", "2000", "--set",
                    "run.device=auto", "--set", "run.precision=" + precision});
  };
  const io::Json single = described("float32"), tensor = described("tf32"), half = described("bfloat16");
  EXPECT_EQ(single["dtype"], "float32");
  EXPECT_EQ(tensor["costs"], single["costs"]);
  EXPECT_EQ(half["dtype"], "bfloat16");
  const double parameters = single["parameter_count"].get<double>(),
               wide = single["costs"][0]["step_bytes"].get<double>() - 16 * parameters;
  EXPECT_DOUBLE_EQ(half["costs"][0]["step_bytes"].get<double>(), 18 * parameters + wide / 2);
  EXPECT_EQ(json_of({"describe", config_file("quickstart.yaml"), "--set", "run.device=cuda"})["dtype"],
            "bfloat16")
      << "no GPU is needed to describe one";
  EXPECT_TRUE(holds(tern_command({"describe", config_file("lra/listops.yaml"), "--set", "run.device=cpu"}).out,
                    "a step of 32 in float32"));
}

TEST(Config, EveryShippedFileIsSound) {
  std::vector<std::string> arguments{"config", "check"};
  for (const auto& entry : fs::recursive_directory_iterator(source_folder() / "configs"))
    if (entry.path().extension() == ".yaml") arguments.push_back(entry.path().string());
  ASSERT_GE(arguments.size(), 8U);
  const Outcome outcome = tern_command(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (std::size_t i = 2; i < arguments.size(); ++i) EXPECT_TRUE(holds(outcome.out, "ok   " + arguments[i]));
}

TEST(Config, CheckReportsAllMistakesOfAllFiles) {
  const TemporaryFolder folder;
  write_bytes(folder / "first.yaml", "model: {wdith: 64}\ntraining: {steps: none}\n");
  write_bytes(folder / "second.yaml", "optimiser: {}\n");
  const Outcome outcome = tern_command(
      {"config", "check", folder / "first.yaml", config_file("quickstart.yaml"), folder / "second.yaml"});
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::bad_config));
  for (const char* mistake : {"first.yaml:1", "wdith", "first.yaml:2", "training.steps", "optimiser"})
    EXPECT_TRUE(holds(outcome.err, mistake)) << mistake << " is missing in\n" << outcome.err;
  EXPECT_TRUE(holds(outcome.out, "ok   " + config_file("quickstart.yaml")));
}

TEST(Config, CheckReadsSweepsAndEveryFileThatTheyName) {
  const TemporaryFolder folder;
  const std::string task = config_file("quickstart.yaml");
  write_bytes(folder / "bad.yaml", "model: {attention: {kind: yoso, hashs: 3}}\n");
  write_bytes(folder / "sweep.yaml", "tasks: [" + task + "]\nmechanisms: [bad.yaml, " +
                                         config_file("attention/none.yaml") + "]\nseeds: [1, 2]\n");
  write_bytes(folder / "key.yaml", "task: [" + task + "]\nseeds: [1]\n");
  write_bytes(folder / "absent.yaml", "tasks: [nowhere.yaml]\n");
  const Outcome outcome = tern_command({"config", "check", folder / "sweep.yaml", folder / "key.yaml"});
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::bad_config));
  for (const char* mistake : {"bad.yaml:1:", "did you mean model.attention.hashes or model.attention.hash?",
                              "in run quickstart-bad-seed1 and 1 more of ", "did you mean tasks?"})
    EXPECT_TRUE(holds(outcome.err, mistake)) << mistake << " is missing in\n" << outcome.err;
  EXPECT_EQ(outcome.err.find("hashs"), outcome.err.rfind("hashs")) << "told once\n" << outcome.err;
  EXPECT_EQ(tern_command({"config", "check", folder / "absent.yaml"}).code,
            static_cast<int>(ExitCode::missing_input));
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"train"}, {"describe"}, {"config", "show"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back(config_file("sweeps/quick.yaml"));
    const Outcome refused = tern_command(arguments);
    EXPECT_EQ(refused.code, static_cast<int>(ExitCode::bad_config));
    EXPECT_TRUE(holds(refused.err, "got a sweep of several; use tern sweep ")) << refused.err;
  }
}

TEST(Config, FragmentsCombineThroughBase) {
  const TemporaryFolder folder;
  write_bytes(folder / "both.yaml", "base: [" + config_file("lra/listops.yaml") + ", " +
                                        config_file("attention/yoso.yaml") +
                                        "]\nmodel: {attention: {hashes: 7}}\n");
  const Outcome outcome = tern_command({"config", "show", folder / "both.yaml", "--origin"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const char* line : {"kind: yoso", "hash: hadamard", "hashes: 7", "steps: 5000", "seed: 0  # default"})
    EXPECT_TRUE(holds(outcome.out, line)) << line << " is missing in\n" << outcome.out;
  const Outcome difference =
      tern_command({"config", "diff", config_file("lra/listops.yaml"), folder / "both.yaml"});
  EXPECT_EQ(difference.code, 0);
  EXPECT_TRUE(holds(difference.out, "model.attention.hashes"));
  EXPECT_FALSE(holds(difference.out, "training.steps"));
}

TEST(Config, KeysAndReferenceNameTheSameKeys) {
  const Outcome keys = tern_command({"config", "keys"}), reference = tern_command({"config", "reference"});
  std::istringstream lines(keys.out);
  int count = 0;
  for (std::string key; std::getline(lines, key); ++count)
    EXPECT_TRUE(holds(reference.out, "`" + key + "`")) << key << " is missing in the reference";
  EXPECT_GT(count, 40);
}

TEST(Doctor, FindsThatComputationWorks) {
  const io::Json json = json_of({"doctor"});
  int checked = 0;
  for (const io::Json& finding : json) {
    EXPECT_NE(finding["state"], "broken") << finding["text"];
    if (finding["subject"] != "matrix product" && finding["subject"] != "attention") continue;
    EXPECT_EQ(finding["state"], "ok");
    ++checked;
  }
  EXPECT_EQ(checked, 2);
}

TEST(Doctor, WarnsWhereRunsCannotBeWritten) {
  const TemporaryFolder folder;
  write_bytes(folder / "file", "");
  const Outcome outcome = tern_command({"doctor", "--out", folder / "file/runs"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(holds(outcome.out, "file/runs: not writable, choose another folder")) << outcome.out;
}

}  // namespace
}  // namespace tern::test
