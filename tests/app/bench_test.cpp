// tern bench attention and tern bench model.
#include "app/bench.h"

#include <cmath>
#include <sstream>

#include <gtest/gtest.h>

#include "app/bench_inputs.h"
#include "app/command.h"
#include "io/json.h"
#include "support/temporary_folder.h"

namespace tern::test {
namespace {

using app::AttentionRows;
using app::RowLaw;
using app::RowShape;

/// The lines of `tern bench <arguments> --json`: the environment first.
std::vector<io::Json> lines_of(std::vector<std::string> arguments, ExitCode expected = ExitCode::done) {
  arguments.insert(arguments.begin(), "bench");
  for (const char* word : {"--device", "cpu", "--json"}) arguments.emplace_back(word);
  const Outcome outcome = tern_command(arguments);
  EXPECT_EQ(outcome.code, static_cast<int>(expected)) << outcome.err;
  std::vector<io::Json> lines;
  std::istringstream text(outcome.out);
  for (std::string line; std::getline(text, line);) lines.push_back(io::parse_json(line, "output"));
  return lines;
}

/// The message of a command that must fail.
std::string failure_of(std::vector<std::string> arguments, ExitCode expected) {
  arguments.insert(arguments.begin(), "bench");
  const Outcome outcome = tern_command(arguments);
  EXPECT_EQ(outcome.code, static_cast<int>(expected)) << outcome.out << outcome.err;
  return outcome.err;
}

std::vector<float> values_of(const Tensor& x) { return x.to_vector<float>(); }

AttentionRows rows_of(RowLaw law, const RowShape& shape, std::uint64_t seed = 1) {
  return app::attention_rows(law, shape, seed, DType::float32, {});
}

TEST(BenchInputs, FollowSeedAndTokenOnly) {
  const RowShape shape{40, 2, 16}, fewer{30, 2, 16};
  for (const RowLaw law : {RowLaw::random, RowLaw::mean, RowLaw::equal_keys}) {
    const AttentionRows rows = rows_of(law, shape), again = rows_of(law, shape), other = rows_of(law, shape, 2),
                        part = rows_of(law, fewer);
    for (const auto member :
         {&AttentionRows::query, &AttentionRows::key, &AttentionRows::value, &AttentionRows::gradient}) {
      EXPECT_EQ(values_of(rows.*member), values_of(again.*member));
      EXPECT_NE(values_of(rows.*member), values_of(other.*member));
      EXPECT_EQ(values_of((rows.*member).narrowed(0, 0, 30)), values_of(part.*member));
    }
    EXPECT_TRUE(rows.query.shares_storage_with(rows.value)) << "views of one product";
    EXPECT_TRUE(rows.gradient.is_contiguous());
  }
}

/// Mean over tokens of the cosine between a query and the next token's key in the same head.
double typical_cosine(const AttentionRows& rows, const RowShape& shape) {
  const std::vector<float> q = values_of(rows.query), k = values_of(rows.key);
  const auto width = static_cast<std::size_t>(shape.head_width), heads = static_cast<std::size_t>(shape.heads);
  double sum = 0;
  std::size_t pairs = 0;
  for (std::size_t row = 0; (row + heads + 1) * width <= q.size(); ++row, ++pairs) {
    double product = 0, q_square = 0, k_square = 0;
    for (std::size_t i = 0; i < width; ++i) {
      const double a = q[row * width + i], b = k[(row + heads) * width + i];
      product += a * b, q_square += a * a, k_square += b * b;
    }
    sum += product / std::sqrt(q_square * k_square);
  }
  return sum / static_cast<double>(pairs);
}

TEST(BenchInputs, KeepTheirLaw) {
  const RowShape shape{2000, 2, 64};
  EXPECT_NEAR(typical_cosine(rows_of(RowLaw::random, shape), shape), 0, 0.01);
  EXPECT_NEAR(typical_cosine(rows_of(RowLaw::mean, shape), shape), 0.5, 0.02);
  const AttentionRows equal = rows_of(RowLaw::equal_keys, shape);
  const std::vector<float> keys = values_of(equal.key);
  for (std::size_t i = 128; i < keys.size(); ++i) ASSERT_EQ(keys[i], keys[i % 128]) << i;
  EXPECT_NE(keys[0], keys[64]) << "heads have keys of their own";
  EXPECT_NEAR(typical_cosine(equal, shape), 0, 0.02);
}

TEST(BenchTiming, CountsCallsAndMemory) {
  int calls = 0;
  const auto body = [&] {
    ++calls;
    empty({1 << 18}, DType::float32);
  };
  const app::Timing timing = app::time_calls({}, {5, 100}, body);
  EXPECT_EQ(calls, 6) << "one untimed";
  EXPECT_EQ(timing.milliseconds.size(), 5U);
  EXPECT_EQ(timing.peak_bytes, 1 << 20);
  EXPECT_EQ(app::time_calls({}, {5, 0}, body).milliseconds.size(), 1U) << "time is up after the first";
  EXPECT_EQ(app::time_calls({}, {0, 5}, body).milliseconds.size(), 0U);
}

TEST(BenchTiming, SummarizesCalls) {
  const app::Timing timing{{8, 2, 4, 6, 5}, 0}, single{{3}, 0};
  EXPECT_DOUBLE_EQ(timing.median(), 5);
  EXPECT_DOUBLE_EQ(timing.mean(), 5);
  EXPECT_DOUBLE_EQ(timing.deviation(), std::sqrt(5));
  EXPECT_DOUBLE_EQ(single.deviation(), 0);
}

TEST(BenchAttention, PrintsARowForEachCase) {
  const std::vector<io::Json> lines =
      lines_of({"attention", "--lengths", "16,50", "--head-widths", "8,16", "--heads", "2", "--tokens", "100",
                "--kinds", "all", "--variant", "few=yoso:hashes=2,bits=3", "--repetitions", "2"});
  std::vector<std::string> names, kinds;
  for (const AttentionKind& kind : attention_kinds()) names.emplace_back(kind.name);
  kinds = names;
  names.emplace_back("few");
  kinds.emplace_back("yoso");
  ASSERT_EQ(lines.size(), 1 + 2 * 2 * names.size());
  EXPECT_TRUE(lines.front()["environment"].contains("commit"));
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const io::Json& row = lines[i];
    const std::size_t which = (i - 1) % names.size(), group = (i - 1) / names.size();
    EXPECT_EQ(row["name"], names[which]);
    EXPECT_EQ(row["kind"], kinds[which]);
    EXPECT_EQ(row["length"], group % 2 == 0 ? 16 : 50);
    EXPECT_EQ(row["tokens"], group % 2 == 0 ? 96 : 100) << "whole sequences";
    EXPECT_EQ(row["head_width"], group / 2 == 0 ? 8 : 16);
    EXPECT_EQ(row["heads"], 2);
    EXPECT_EQ(row["dtype"], "float32");
    EXPECT_EQ(row["device"], "cpu");
    EXPECT_EQ(row["input"], "random");
    EXPECT_EQ(row["repetitions"], 2);
    EXPECT_FALSE(row.contains("error"));
    EXPECT_TRUE(holds(row["path"].get<std::string>(), "x86-64-v"));
    for (const char* time : {"forward_ms", "forward_backward_ms"}) EXPECT_GT(row[time].get<double>(), 0);
    // at least the result; a mechanism with scores also the gradients of queries, keys and values
    const double block = row["tokens"].get<double>() * 2 * row["head_width"].get<double>() * 4 / (1 << 20);
    EXPECT_GE(row["peak_mib"].get<double>(), (kinds[which] == "none" ? 1 : 4) * block);
  }
}

TEST(BenchAttention, LongSequenceStandsAlone) {
  const std::vector<io::Json> lines =
      lines_of({"attention", "--lengths", "64", "--tokens", "10", "--heads", "1", "--head-widths", "8",
                "--kinds", "softmax", "--input", "mean", "--dropout", "0.25", "--repetitions", "1"});
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[1]["tokens"], 64);
  EXPECT_EQ(lines[1]["input"], "mean");
  EXPECT_EQ(lines[1]["dropout"], 0.25);
}

TEST(BenchAttention, FailureIsARowAndTheRestGoesOn) {
  const std::vector<std::string> sizes{"--heads", "256",  "--head-widths", "64", "--tokens", "8",
                                       "--kinds", "none", "--repetitions", "1",  "--lengths"};
  const auto with_lengths = [&](const char* lengths) {
    std::vector<std::string> arguments{"attention"};
    arguments.insert(arguments.end(), sizes.begin(), sizes.end());
    arguments.emplace_back(lengths);
    return arguments;
  };
  const std::vector<io::Json> lines = lines_of(with_lengths("16777216,8"));
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_TRUE(holds(lines[1]["error"].get<std::string>(), "out of memory"));
  EXPECT_FALSE(holds(lines[1]["error"].get<std::string>(), "training.")) << "advice for another command";
  EXPECT_TRUE(lines[1]["forward_ms"].is_null());
  EXPECT_FALSE(lines[2].contains("error"));
  EXPECT_EQ(lines_of(with_lengths("16777216"), ExitCode::failed).size(), 2U) << "nothing was timed";
}

TEST(BenchAttention, MistakesAreTold) {
  const std::string unknown = failure_of({"attention", "--kinds", "sofmax"}, ExitCode::bad_config);
  EXPECT_TRUE(holds(unknown, "did you mean softmax?")) << unknown;
  const std::string key = failure_of({"attention", "--variant", "a=yoso:hashs=3"}, ExitCode::bad_config);
  EXPECT_TRUE(holds(key, "did you mean model.attention.hashes")) << key;
  EXPECT_TRUE(holds(key, "in the mechanism a")) << key;
  for (const char* variant : {"yoso", "=yoso", "a=", "a=:hashes=3", "a=yoso:", "a=yoso:hashes"})
    EXPECT_TRUE(holds(failure_of({"attention", "--variant", variant}, ExitCode::usage), "a variant must be"));
  EXPECT_TRUE(holds(failure_of({"attention", "--kinds", "yoso,yoso"}, ExitCode::failed), "names must differ"));
  EXPECT_TRUE(holds(failure_of({"attention", "--device", "cpu", "--dtype", "bfloat16"}, ExitCode::failed),
                    "--dtype: must be float32 on the CPU"));
  EXPECT_TRUE(
      holds(failure_of({"attention", "--device", "cpu", "--plot", "nowhere/x.svg"}, ExitCode::cannot_create),
            "--plot"));
  failure_of({"attention", "--lengths", "0"}, ExitCode::usage);
  failure_of({}, ExitCode::usage);
}

TEST(BenchAttention, TableAndPlot) {
  const TemporaryFolder folder;
  const Outcome outcome =
      tern_command({"bench", "attention", "--device", "cpu", "--lengths", "8,16,32", "--tokens", "32",
                    "--heads", "1", "--head-widths", "8", "--repetitions", "1", "--plot", folder / "time.svg"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const char* part : {"forward, ms", "softmax", "yoso", "32 tokens, 1 heads, float32 on the CPU"})
    EXPECT_TRUE(holds(outcome.out, part)) << part << " is missing in\n" << outcome.out;
  const std::string plot = read_bytes(folder / "time.svg");
  for (const char* part : {"<svg", ">softmax<", ">yoso<", "milliseconds"})
    EXPECT_TRUE(holds(plot, part)) << part << " is missing";
}

TEST(BenchAttention, RunsOnAGpu) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  const Outcome outcome =
      tern_command({"bench", "attention", "--json", "--lengths", "128", "--tokens", "1000", "--heads", "2",
                    "--kinds", "all", "--variant", "expectation=yoso:form=expectation", "--repetitions", "3"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream text(outcome.out);
  std::string line;
  for (std::getline(text, line); std::getline(text, line);) {
    const io::Json row = io::parse_json(line, "output");
    EXPECT_EQ(row["device"], "cuda");
    EXPECT_EQ(row["dtype"], "bfloat16");
    EXPECT_FALSE(row.contains("error")) << line;
    EXPECT_GT(row["forward_backward_ms"].get<double>(), 0);
    EXPECT_GE(row["peak_mib"].get<double>(), 896 * 2 * 64 * 2.0 / (1 << 20));
    EXPECT_TRUE(row["name"] != "softmax" || holds(row["path"].get<std::string>(), "exact attention: ")) << line;
  }
}

/// `bench model` on a model that takes milliseconds.
std::vector<std::string> small_model(std::initializer_list<std::string> further) {
  std::vector<std::string> arguments{"model", "--repetitions", "3"};
  for (const char* key : {"width=16", "heads=2", "layers=2", "hidden_width=16"})
    arguments.insert(arguments.end(), {"--set", std::string("model.") + key});
  arguments.insert(arguments.end(), further.begin(), further.end());
  return arguments;
}

TEST(BenchModel, PrintsBothModes) {
  const std::vector<io::Json> lines =
      lines_of(small_model({"--lengths", "16,32", "--kinds", "none,softmax", "--max-batch", "5"}));
  ASSERT_EQ(lines.size(), 1U + 2 * 2 * 2);
  EXPECT_TRUE(lines.front().contains("environment"));
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const io::Json& row = lines[i];
    EXPECT_EQ(row["mode"], (i - 1) / 2 % 2 == 0 ? "own" : "same");
    EXPECT_EQ(row["name"], (i - 1) % 2 == 0 ? "none" : "softmax");
    EXPECT_EQ(row["length"], i <= 4 ? 16 : 32);
    EXPECT_EQ(row["batch"], 4) << "the largest power of two up to 5";
    EXPECT_EQ(row["repetitions"], 3);
    EXPECT_GT(row["ms_per_instance"].get<double>(), 0);
    EXPECT_GE(row["ms_deviation"].get<double>(), 0);
    // parameters and gradients alone: 2 * 4 bytes of more than 512 * 16 + 2 * 16 * 64 numbers, for 4 instances
    EXPECT_GT(row["mib_per_instance"].get<double>(), 2 * 4 * 512 * 16 / 4.0 / (1 << 20));
  }
  EXPECT_EQ(lines[1]["ms_per_instance"], lines[3]["ms_per_instance"]) << "timed once";
}

TEST(BenchModel, DefaultsAreTheProtocols) {
  const std::vector<io::Json> lines =
      lines_of(small_model({"--lengths", "8", "--batch", "own", "--max-batch", "1"}));
  std::vector<std::string> names;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    names.push_back(lines[i]["name"]);
    EXPECT_EQ(lines[i]["mode"], "own");
    EXPECT_FALSE(lines[i].contains("error"));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"softmax", "yoso-32", "yoso-16", "yoso-32-conv", "yoso-16-conv"}));
  EXPECT_EQ(lines[5]["settings"], (std::vector<std::string>{"hashes=16", "conv_window=33"}));
}

TEST(BenchModel, SameBatchAlone) {
  const std::vector<io::Json> lines =
      lines_of(small_model({"--lengths", "8", "--batch", "same", "--max-batch", "2", "--kinds", "none"}));
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[1]["mode"], "same");
  EXPECT_EQ(lines[1]["batch"], 2);
  EXPECT_GT(lines[1]["ms_per_instance"].get<double>(), 0);
}

TEST(BenchModel, MistakesAreTold) {
  EXPECT_TRUE(holds(failure_of({"model", "--set", "model.widht=16"}, ExitCode::bad_config),
                    "did you mean model.width?"));
  EXPECT_TRUE(holds(failure_of({"model", "--kinds", "yosso"}, ExitCode::bad_config), "did you mean yoso?"));
  failure_of({"model", "--batch", "mine"}, ExitCode::usage);
}

}  // namespace
}  // namespace tern::test
