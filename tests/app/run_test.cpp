// Usage, help, and the exit code of every class of error.
#include <cstdlib>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "app/command.h"
#include "base/has_cuda.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

int code_of(ExitCode code) { return static_cast<int>(code); }

TEST(Run, UsageMistakesAreExitTwoWithTheNearestWord) {
  struct Case {
    std::vector<std::string> arguments;
    std::string message;
  };
  const std::vector<Case> cases{
      {{"trian"}, "unknown command trian; did you mean train?"},
      {{"list", "atention"}, "unknown command atention; did you mean attention?"},
      {{"frobnicate"}, "unknown command frobnicate; commands: train, evaluate"},
      {{}, "a command is required: train, evaluate"},
      {{"data"}, "a command is required: prepare, verify, info"},
      {{"train", "x.yaml", "--resum", "auto"}, "unknown option --resum; did you mean --resume?"},
      {{"train"}, "config is required: experiment file (YAML)"},
      {{"list", "tasks", "surplus"}, "unexpected argument surplus"},
      {{"data", "prepare", "listops", "--train", "many"}, "--train"},
      {{"--log-level", "loud", "list", "tasks"}, "--log-level"},
      {{"predict", "run"}, "--input or --records is required"},
      {{"predict", "run", "surplus"}, "unexpected argument surplus"},
      {{"predict", "run", "--input", "x.tsv", "--batch-size", "0"}, "--batch-size: Value 0 not in range"},
      {{"describe", "x.yaml", "--lengths", "0"}, "--lengths: Value 0 not in range 1 to 16777216"},
  };
  for (const Case& mistake : cases) {
    const Outcome outcome = tern_command(mistake.arguments);
    EXPECT_EQ(outcome.code, code_of(ExitCode::usage)) << mistake.message;
    EXPECT_TRUE(holds(outcome.err, mistake.message))
        << "wanted: " << mistake.message << "\ngot: " << outcome.err;
    EXPECT_TRUE(holds(outcome.err, "--help"));
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(Run, PathsThatTheSystemRefusesAreExitSeventyFour) {
  const TemporaryFolder folder;
  const std::string circle = folder / "circle";
  std::filesystem::create_symlink("circle", circle);
  const std::vector<std::vector<std::string>> commands{{"evaluate", circle},
                                                       {"report", circle},
                                                       {"data", "verify", circle},
                                                       {"checkpoint", "list", circle},
                                                       {"data", "prepare", "listops", "--out", circle},
                                                       {"report", std::string(300, 'x')}};
  for (const std::vector<std::string>& command : commands) {
    const Outcome outcome = tern_command(command);
    EXPECT_EQ(outcome.code, code_of(ExitCode::io_error)) << outcome.err;
    EXPECT_TRUE(holds(outcome.err, command.back())) << outcome.err;
    EXPECT_FALSE(holds(outcome.err, "internal")) << outcome.err;
  }
}

TEST(Run, HelpBeginsWithExamplesAndNamesEveryOption) {
  struct Case {
    std::vector<std::string> command, mentions;
  };
  const std::vector<Case> cases{
      {{},
       {"--version", "--log-level", "--quiet", "train", "evaluate", "describe", "list", "data", "checkpoint",
        "config", "doctor"}},
      {{"train"}, {"config", "--set", "--out", "--resume"}},
      {{"evaluate"}, {"source", "--split", "--records", "--seed", "--hash-draws", "--set", "--json"}},
      {{"predict"}, {"source", "--input", "--records", "--out", "--text", "--set"}},
      {{"describe"}, {"config", "--set", "--lengths", "--json"}},
      {{"list"}, {"attention", "tasks", "objectives", "schedules", "devices"}},
      {{"list", "attention"}, {"--json"}},
      {{"data"}, {"prepare", "verify", "info"}},
      {{"data", "prepare", "listops"},
       {"--out", "--seed", "--train", "--dev", "--test", "--min-length", "--max-length", "--depth",
        "--arguments", "--force", "--from", "--allow-bad"}},
      {{"data", "prepare", "text"}, {"--from", "--out", "--force", "--allow-bad", "--dev", "--seed"}},
      {{"data", "prepare", "retrieval"},
       {"--from", "--source", "--out", "--force", "--allow-bad", "--max-length"}},
      {{"data", "prepare", "image"}, {"--from", "--out", "--force", "--allow-bad"}},
      {{"data", "prepare", "pathfinder"},
       {"--out", "--force", "--allow-bad", "--size", "--difficulty", "--seed", "--from", "--count", "--png",
        "--sheet"}},
      {{"data", "verify"}, {"paths"}},
      {{"data", "info"}, {"paths", "--json"}},
      {{"checkpoint"}, {"list", "verify", "average"}},
      {{"checkpoint", "list"}, {"run", "--json"}},
      {{"checkpoint", "verify"}, {"paths"}},
      {{"checkpoint", "average"}, {"out", "sources", "--force"}},
      {{"config"}, {"show", "check", "diff", "reference", "keys"}},
      {{"config", "show"}, {"config", "--set", "--origin"}},
      {{"config", "check"}, {"files", "--set"}},
      {{"config", "diff"}, {"before", "after"}},
      {{"doctor"}, {"--out", "--json"}},
      {{"sweep"}, {"file", "--out", "--jobs", "--set", "--only", "--dry-run"}},
      {{"report"}, {"paths", "--format", "--out", "--collect", "--page", "--check"}},
  };
  for (const Case& help : cases) {
    std::vector<std::string> arguments = help.command;
    arguments.push_back("--help");
    const Outcome outcome = tern_command(arguments);
    EXPECT_EQ(outcome.code, 0);
    EXPECT_TRUE(outcome.out.starts_with("Example")) << outcome.out;
    ASSERT_FALSE(help.mentions.empty());
    for (const std::string& word : help.mentions)
      EXPECT_TRUE(holds(outcome.out, word)) << word << " is missing in\n" << outcome.out;
  }
}

TEST(Run, VersionNamesTheBuild) {
  const Outcome outcome = tern_command({"--version"});
  EXPECT_EQ(outcome.code, 0);
  for (const char* word : {"tern ", "commit: ", "compiler: ", "CUDA: ", "BLAS: ", "instruction set: x86-64-v"})
    EXPECT_TRUE(holds(outcome.out, word)) << word;
}

TEST(Run, EachClassOfErrorHasItsExitCode) {
  const TemporaryFolder folder;
  write_bytes(folder / "damaged.records", "not a record file");
  write_bytes(folder / "bad.yaml", "model: {wdith: 64}\n");
  write_bytes(folder / "file", "");
  prepare_short_data(folder / "data");
  tern_command({"data", "prepare", "classification", "--out", folder / "reviews", "--train",
                config_file("own_data/synthetic_reviews.tsv")});
  struct Case {
    ExitCode code;
    std::vector<std::string> arguments;
    std::string message;
  };
  const std::string listops = config_file("lra/listops.yaml");
  const std::vector<Case> cases{
      {ExitCode::failed,
       {"data", "prepare", "listops", "--out", folder / "new", "--min-length", "9", "--max-length", "3"},
       "length"},
      {ExitCode::bad_data, {"data", "verify", folder / "damaged.records"}, "damaged.records"},
      {ExitCode::bad_data,
       {"train", listops, "--out", folder / "run", "--set", "task.data=" + (folder / "reviews").string()},
       "must hold data of the task listops, got classification; set task.kind or task.data"},
      {ExitCode::missing_input, {"train", folder / "absent.yaml"}, "absent.yaml"},
      {ExitCode::missing_input,
       {"train", listops, "--out", folder / "run", "--set", "task.data=" + (folder / "none").string()},
       "tern data prepare listops"},
      {ExitCode::cannot_create,
       {"data", "prepare", "listops", "--out", folder / "data", "--seed", "9"},
       "--force"},
      {ExitCode::cannot_create,
       {"data", "prepare", "listops", "--out", folder / "file" / "x", "--train", "10"},
       "file"},
      {ExitCode::bad_config, {"describe", folder / "bad.yaml"}, "did you mean model.width?"},
      {ExitCode::bad_config,
       {"describe", listops, "--set", "model.heads=5"},
       "model.heads must divide model.width (64), got 5"},
  };
  for (const Case& error : cases) {
    const Outcome outcome = tern_command(error.arguments);
    EXPECT_EQ(outcome.code, code_of(error.code)) << error.message << "\n" << outcome.err;
    EXPECT_TRUE(holds(outcome.err, error.message)) << "wanted: " << error.message << "\ngot: " << outcome.err;
  }
}

TEST(Run, TooLittleMemoryIsAnError) {
  // Sanitizers end the program instead of throwing unless told so.
  setenv("ASAN_OPTIONS", "allocator_may_return_null=1", 1);
  setenv("TSAN_OPTIONS", "allocator_may_return_null=1", 1);
  const TemporaryFolder folder;
  const Outcome outcome = tern_process("describe '" + config_file("lra/listops.yaml") +
                                           "' --set task.vocabulary=16777216 --set model.width=65536",
                                       folder.path());
  EXPECT_EQ(outcome.code, code_of(ExitCode::failed)) << outcome.out;
  EXPECT_TRUE(holds(outcome.out, "memory"));
}

TEST(Run, LostOutputIsAnError) {
  const TemporaryFolder folder;
  const Outcome outcome = tern_process("list attention > /dev/full", folder.path());
  EXPECT_EQ(outcome.code, code_of(ExitCode::io_error)) << outcome.out;
  EXPECT_TRUE(holds(outcome.out, "disk full"));
}

/// The arguments as one shell text.
std::string quoted(const std::vector<std::string>& arguments) {
  std::string text;
  for (const std::string& word : arguments) text += " '" + word + "'";
  return text;
}

TEST(Run, DivergenceHasItsExitCode) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  std::vector<std::string> arguments = short_training(folder / "data", folder / "run", 20);
  for (const std::string override : {"optimizer.learning_rate=1e30", "training.max_skipped=2"})
    arguments.insert(arguments.end(), {"--set", override});
  const Outcome outcome = tern_command(arguments);
  EXPECT_EQ(outcome.code, code_of(ExitCode::diverged)) << outcome.err;
  EXPECT_TRUE(holds(outcome.err, "2 times in a row"));
}

TEST(Run, InterruptedTrainingSavesAndContinues) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  const std::string endless = quoted(short_training(folder / "data", folder / "run", 1000000));
  const Outcome stopped = tern_process(
      endless +
          " & pid=$!; while kill -0 $pid && ! ls run/checkpoints/step-*/MANIFEST.json; do sleep 0.1; done; "
          "kill -TERM $pid; wait $pid",
      folder.path());
  EXPECT_EQ(stopped.code, code_of(ExitCode::interrupted)) << stopped.out;
  const io::Json found =
      io::parse_json(tern_command({"checkpoint", "list", folder / "run", "--json"}).out, "checkpoint list");
  ASSERT_FALSE(found.empty());
  const int done = found.back()["step"];
  ASSERT_GT(done, 0);
  const Outcome finished = tern_command(short_training(folder / "data", folder / "run", done + 2));
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_TRUE(holds(finished.err, "continuing after step " + std::to_string(done)));
}

TEST(Run, MessagesOfClosedStreamsReachNoFile) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  const Outcome outcome =
      tern_process(quoted(short_training(folder / "data", folder / "run", 6)) + " <&- >&- 2>&-", folder.path());
  EXPECT_EQ(outcome.code, code_of(ExitCode::io_error)) << "the summary could not be written";
  const std::string rows = read_bytes(folder / "run/metrics.jsonl");
  EXPECT_TRUE(rows.ends_with("}\n")) << rows;
  for (std::size_t begin = 0; begin < rows.size();) {
    const std::size_t end = rows.find('\n', begin);
    EXPECT_NO_THROW(io::parse_json(rows.substr(begin, end - begin), "metrics.jsonl"));
    begin = end + 1;
  }
}

// Sanitizers need stacks and addresses of their own. Before the program sets OPENBLAS_NUM_THREADS itself,
// OpenBLAS has threads for all cores: on many of them they would not fit into these limits.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/// What tern says with these arguments, under limits of the shell.
Outcome limited(const TemporaryFolder& folder, const std::string& limits,
                const std::vector<std::string>& arguments) {
  const std::string program = (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "tern").string();
  return tern_process("--version > version.txt; (export OPENBLAS_NUM_THREADS=1; " + limits +
                          "; timeout 100 '" + program + "'" + quoted(arguments) + ")",
                      folder.path());
}

/// Two steps with YOSO, on prepared data.
std::vector<std::string> short_yoso_training(const TemporaryFolder& folder) {
  prepare_short_data(folder / "data");
  std::vector<std::string> yoso = short_training(folder / "data", folder / "run", 2);
  yoso.insert(yoso.end(), {"--set", "model.attention.kind=yoso", "--set", "run.threads=2"});
  return yoso;
}

TEST(Run, LimitsOnTheStackAreErrors) {
  const TemporaryFolder folder;
  const std::vector<std::string> yoso = short_yoso_training(folder);
  const Outcome low = limited(folder, "ulimit -s 64", yoso);
  EXPECT_EQ(low.code, code_of(ExitCode::failed)) << low.out;
  EXPECT_TRUE(holds(low.out, "must be at least 256 KiB, got 64 KiB; raise it: ulimit -s")) << low.out;
  EXPECT_EQ(limited(folder, "ulimit -S -s 64", yoso).code, 0) << "a soft limit is raised";
  EXPECT_EQ(limited(folder, "ulimit -s 256", yoso).code, 0) << "enough";
}

TEST(Run, LimitsOnAddressesAreErrors) {
  if (has_cuda) GTEST_SKIP() << "the libraries of CUDA take more addresses than these limits";
  const TemporaryFolder folder;
  const std::vector<std::string> yoso = short_yoso_training(folder);
  const Outcome low = limited(folder, "ulimit -v 250000", yoso);
  EXPECT_EQ(low.code, code_of(ExitCode::failed)) << low.out;
  EXPECT_TRUE(holds(low.out, "got a limit of 244 MiB in all; raise it (ulimit -v)")) << low.out;
  EXPECT_EQ(limited(folder, "ulimit -v 250000", {"list", "attention"}).code, 0) << "nothing is multiplied";
  EXPECT_EQ(limited(folder, "ulimit -v 2000000", yoso).code, 0) << "enough";
}
#endif

TEST(Run, LimitsOnTheSizeOfFilesAreErrors) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{4096, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Outcome outcome =
      tern_process(quoted(short_training(folder / "data", folder / "run", 6)), folder.path());
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(outcome.code, code_of(ExitCode::io_error)) << outcome.out;
  EXPECT_TRUE(holds(outcome.out, "ulimit -f")) << outcome.out;
}

/// Trains without end in `folder`/run, runs a shell command there once a checkpoint is complete, and waits.
Outcome disturbed_training(const TemporaryFolder& folder, const std::string& disturbance) {
  prepare_short_data(folder / "data");
  return tern_process(
      quoted(short_training(folder / "data", folder / "run", 1000000)) +
          " & pid=$!; while kill -0 $pid && ! ls run/checkpoints/step-*/MANIFEST.json; do sleep 0.1; "
          "done; " +
          disturbance + "; wait $pid",
      folder.path());
}

TEST(Run, ARunWhoseFolderIsTakenAwayEnds) {
  const TemporaryFolder folder;
  const Outcome outcome = disturbed_training(folder, "mv run elsewhere");
  EXPECT_EQ(outcome.code, code_of(ExitCode::io_error)) << outcome.out;
  // Told by the check before a save, or by the save that the move met.
  EXPECT_TRUE(holds(outcome.out, "\ntern: " + (folder / "run").string())) << outcome.out;
}

TEST(Run, DataThatAreCutWhileInUseEndTheRun) {
  const TemporaryFolder folder;
  const Outcome outcome = disturbed_training(folder, ": > data/train.records");
  EXPECT_EQ(outcome.code, code_of(ExitCode::io_error)) << outcome.out;
  EXPECT_TRUE(holds(outcome.out, "became shorter")) << outcome.out;
}

TEST(Run, QuietLeavesOnlyErrors) {
  const TemporaryFolder folder;
  prepare_short_data(folder / "data");
  std::vector<std::string> arguments = short_training(folder / "data", folder / "run", 2);
  EXPECT_TRUE(holds(tern_command(arguments).err, "[train]"));
  arguments = short_training(folder / "data", folder / "quiet", 2);
  arguments.push_back("--quiet");
  const Outcome outcome = tern_command(arguments);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_FALSE(holds(outcome.err, "[dev]"));
  EXPECT_TRUE(holds(outcome.out, "test accuracy"));
}

}  // namespace
}  // namespace tern::test
