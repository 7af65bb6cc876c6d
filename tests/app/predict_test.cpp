// The user's own data from table to scores: tern data prepare classification|pair|regression, train, predict.
#include <cmath>
#include <sstream>

#include <gtest/gtest.h>

#include "app/command.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

int code_of(ExitCode code) { return static_cast<int>(code); }

std::vector<io::Json> rows_of(const std::string& text) {
  std::vector<io::Json> rows;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) rows.push_back(io::parse_json(line, "row"));
  return rows;
}

/// Tables by hand: texts of very different lengths, one of them empty.
std::string labelled_texts() {
  std::string table = "label\tscore\ttext\n";
  for (int i = 0; i < 40; ++i) {
    const bool is_good = i % 3 == 0;
    table += std::string(is_good ? "good\t1." : "bad\t-2.") + std::to_string(i) + "\t";
    if (i != 7) table += std::string(static_cast<std::size_t>(1 + i % 11 * 4), is_good ? 'g' : 'b');
    table += "\n";
  }
  return table;
}

std::vector<std::string> training(const std::string& task, const fs::path& data, const fs::path& run) {
  std::vector<std::string> arguments{"train", config_file("own_data/reviews.yaml"), "--out", run.string()};
  for (const std::string& override :
       {"task.kind=" + task, "task.data=" + data.string(), std::string("run.device=cpu"),
        std::string("run.threads=1"), std::string("model.width=8"), std::string("model.hidden_width=8"),
        std::string("model.head_width=8"), std::string("model.layers=1"), std::string("training.steps=20"),
        std::string("training.batch_size=8"), std::string("training.evaluate_every=10"),
        std::string("training.checkpoint_every=10"), std::string("schedule.warmup=2")}) {
    arguments.push_back("--set");
    arguments.push_back(override);
  }
  return arguments;
}

void expect_done(const Outcome& outcome) {
  if (outcome.code != 0) throw std::runtime_error(outcome.err);
}

/// A run of classes and one of numbers, shared by the tests below. Sampled attention shows whether records keep
/// their random streams.
class Predict : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    write_bytes(path("table.tsv"), labelled_texts());
    expect_done(tern_command({"data", "prepare", "classification", "--train", path("table.tsv"), "--dev",
                              path("table.tsv"), "--test", path("table.tsv"), "--out", path("classes")}));
    expect_done(tern_command({"data", "prepare", "regression", "--train", path("table.tsv"), "--label", "score",
                              "--text", "text", "--second", "label", "--out", path("numbers")}));
    std::vector<std::string> sampled = training("classification", path("classes"), path("class-run"));
    sampled.insert(sampled.end(), {"--set", "model.attention.kind=yoso", "--set", "model.attention.hashes=3"});
    expect_done(tern_command(sampled));
    expect_done(tern_command(training("regression", path("numbers"), path("number-run"))));
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::string path(const std::string& name) { return (*folder_ / name).string(); }
  static std::vector<io::Json> predicted(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "predict");
    const Outcome outcome = tern_command(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return rows_of(outcome.out);
  }
  static io::Json evaluated(const std::string& run) {
    const Outcome outcome = tern_command({"evaluate", path(run), "--json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return io::parse_json(outcome.out, "output")["draws"][0]["all"];
  }
  static std::unique_ptr<TemporaryFolder> folder_;
};
std::unique_ptr<TemporaryFolder> Predict::folder_;

TEST_F(Predict, ClassesGiveTheAccuracyThatEvaluateGives) {
  const std::vector<io::Json> rows = predicted({path("class-run"), "--records", path("classes/test.records")});
  ASSERT_EQ(rows.size(), 40U);
  int right = 0;
  double loss = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const io::Json& probabilities = rows[i]["probabilities"];
    EXPECT_EQ(rows[i]["row"], i + 1);
    EXPECT_EQ(rows[i]["label"], i % 3 == 0 ? "good" : "bad");
    const double bad = probabilities["bad"].get<double>(), good = probabilities["good"].get<double>();
    EXPECT_NEAR(bad + good, 1, 2e-6);
    EXPECT_EQ(rows[i]["class"], good > bad ? "good" : "bad");
    right += rows[i]["class"] == rows[i]["label"] ? 1 : 0;
    loss -= std::log(rows[i]["label"] == "good" ? good : bad) / 40;
  }
  const io::Json score = evaluated("class-run");
  EXPECT_DOUBLE_EQ(score["accuracy"].get<double>(), right / 40.0);
  EXPECT_NEAR(score["loss"].get<double>(), loss, 1e-5);
  EXPECT_GT(right, 20);
}

TEST_F(Predict, NumbersGiveTheLossThatEvaluateGives) {
  const std::vector<io::Json> rows = predicted({path("number-run"), "--records", path("numbers/test.records")});
  ASSERT_EQ(rows.size(), 4U);
  double loss = 0;
  for (const io::Json& row : rows)
    loss += std::pow(row["value"].get<double>() - std::stod(row["label"].get<std::string>()), 2) / 4;
  EXPECT_NEAR(evaluated("number-run")["loss"].get<double>(), loss, 1e-4 * loss);
}

TEST_F(Predict, TablesAndPreparedDataHaveTheSameScores) {
  const std::vector<io::Json> table = predicted({path("class-run"), "--input", path("table.tsv")}),
                              records =
                                  predicted({path("class-run"), "--records", path("classes/test.records")});
  ASSERT_EQ(table.size(), records.size());
  for (std::size_t i = 0; i < table.size(); ++i)
    EXPECT_EQ(table[i]["probabilities"], records[i]["probabilities"]);
  EXPECT_FALSE(table[0].contains("label"));
}

TEST_F(Predict, BatchesDoNotChangeScores) {
  const std::vector<io::Json> whole = predicted({path("class-run"), "--input", path("table.tsv")});
  for (const char* size : {"1", "7", "1000"}) {
    const std::vector<io::Json> rows =
        predicted({path("class-run"), "--input", path("table.tsv"), "--batch-size", size});
    ASSERT_EQ(rows.size(), whole.size());
    for (std::size_t i = 0; i < rows.size(); ++i)
      EXPECT_NEAR(rows[i]["probabilities"]["good"].get<double>(),
                  whole[i]["probabilities"]["good"].get<double>(), 3e-6)
          << "row " << i << ", batches of " << size;
  }
}

TEST_F(Predict, PairsTakeBothColumns) {
  write_bytes(path("pairs.jsonl"), "{\"a\": \"ggg\", \"b\": \"good\"}\n{\"a\": \"ggg\", \"b\": \"bad\"}\n");
  const std::vector<io::Json> rows =
      predicted({path("number-run"), "--input", path("pairs.jsonl"), "--text", "a", "--second", "b"});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_NE(rows[0]["value"], rows[1]["value"]);
}

TEST_F(Predict, MalformedRowsKeepTheirPlaceWhereTheyAreAllowed) {
  write_bytes(path("new.jsonl"),
              "{\"text\": \"b\"}\n{\"txt\": 1}\nnonsense\n{\"text\": \"\"}\n{\"text\": \"gggg\"}\n{}\n");
  const Outcome refused = tern_command(
      {"predict", path("class-run"), "--input", path("new.jsonl"), "--out", path("refused.jsonl")});
  EXPECT_EQ(refused.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(refused.err, "new.jsonl:2: the object must have a key \"text\"")) << refused.err;
  EXPECT_FALSE(fs::exists(path("refused.jsonl")));
  for (const char* size : {"1", "2", "9"}) {
    const std::vector<io::Json> rows =
        predicted({path("class-run"), "--input", path("new.jsonl"), "--allow-bad", "3", "--batch-size", size});
    ASSERT_EQ(rows.size(), 6U);
    for (std::size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(rows[i]["row"], i + 1);
      EXPECT_EQ(rows[i].contains("error"), i == 1 || i == 2 || i == 5) << i;
    }
    EXPECT_TRUE(holds(rows[2]["error"].get<std::string>(), "new.jsonl:3: "));
  }
}

TEST_F(Predict, TsvHasTheSameNumbersAndFilesAreNotReplacedUnasked) {
  const std::vector<std::string> arguments{"predict",         path("class-run"), "--input",
                                           path("table.tsv"), "--out",           path("scores.tsv")};
  ASSERT_EQ(tern_command(arguments).code, 0);
  std::istringstream lines(read_bytes(path("scores.tsv")));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "row\tclass\tp(bad)\tp(good)");
  for (const io::Json& row : predicted({path("class-run"), "--input", path("table.tsv")})) {
    std::getline(lines, line);
    EXPECT_EQ(line, io::dump_json(row["row"]) + "\t" + row["class"].get<std::string>() + "\t" +
                        io::dump_json(row["probabilities"]["bad"]) + "\t" +
                        io::dump_json(row["probabilities"]["good"]));
  }
  EXPECT_FALSE(std::getline(lines, line));
  write_bytes(path("scores.tsv"), "mine");
  EXPECT_EQ(tern_command(arguments).code, code_of(ExitCode::cannot_create));
  EXPECT_EQ(read_bytes(path("scores.tsv")), "mine");
  std::vector<std::string> forced = arguments;
  forced.push_back("--force");
  EXPECT_EQ(tern_command(forced).code, 0);
  EXPECT_NE(read_bytes(path("scores.tsv")), "mine");
}

TEST_F(Predict, RunFolderNeedsNoTrainingData) {
  const TemporaryFolder elsewhere;
  fs::copy(path("class-run"), elsewhere / "run", fs::copy_options::recursive);
  fs::rename(path("classes"), path("hidden"));
  write_bytes(elsewhere / "new.txt", "ggggg\n\nbb\n");
  const Outcome outcome = tern_process("predict run --input - --text 1 --quiet < new.txt", elsewhere.path());
  fs::rename(path("hidden"), path("classes"));
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  const std::vector<io::Json> rows = rows_of(outcome.out);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[2]["row"], 3);
}

TEST_F(Predict, MistakesAreTold) {
  const std::string run = path("class-run"), table = path("table.tsv");
  EXPECT_EQ(tern_command({"predict", run}).code, code_of(ExitCode::usage));
  EXPECT_EQ(tern_command({"predict", run, "--input", table, "--records", table}).code,
            code_of(ExitCode::usage));
  EXPECT_EQ(tern_command({"predict", run, "--records", table, "--text", "text"}).code,
            code_of(ExitCode::usage));
  EXPECT_EQ(tern_command({"data", "prepare", "listops", "--out", path("x"), "--allow-bad", "1"}).code,
            code_of(ExitCode::usage));
  EXPECT_EQ(tern_command({"predict", path("absent"), "--input", table}).code, code_of(ExitCode::missing_input));
  EXPECT_EQ(tern_command({"predict", run, "--input", path("absent")}).code, code_of(ExitCode::missing_input));
  EXPECT_EQ(tern_command({"predict", run, "--input", table, "--second", "x"}).code, code_of(ExitCode::failed));
  EXPECT_EQ(tern_command({"predict", run, "--input", table, "--text", "x"}).code, code_of(ExitCode::bad_data));
  const Outcome pair = tern_command({"predict", run, "--records", path("numbers/test.records")});
  EXPECT_EQ(pair.code, code_of(ExitCode::bad_data)) << pair.err;
  const fs::path copy = path("copy");
  fs::copy(run, copy, fs::copy_options::recursive);
  write_bytes(copy / "task.json", "{}");
  EXPECT_EQ(tern_command({"predict", copy, "--input", table}).code, code_of(ExitCode::bad_data));
  fs::remove(copy / "task.json");
  EXPECT_EQ(tern_command({"predict", copy, "--input", table}).code, code_of(ExitCode::missing_input));
}

TEST_F(Predict, OverridesThatNobodyWouldReadAreRefused) {
  const std::string run = path("class-run"), table = path("table.tsv");
  const auto outcome_of = [&](const std::string& command, const std::string& override) {
    std::vector<std::string> arguments{command, run, "--set", override};
    if (command == "predict") arguments.insert(arguments.end(), {"--input", table});
    return tern_command(arguments);
  };
  for (const std::string override : {"optimizer.learning_rate=1", "schedule.warmup=7", "training.steps=9"})
    for (const std::string command : {"predict", "evaluate"}) {
      const Outcome refused = outcome_of(command, override);
      EXPECT_EQ(refused.code, code_of(ExitCode::bad_config)) << override;
      EXPECT_TRUE(holds(refused.err, "--set " + override.substr(0, override.find('=')) + ": ")) << refused.err;
    }
  const Outcome task = outcome_of("predict", "task.max_length=8");
  EXPECT_EQ(task.code, code_of(ExitCode::bad_config));
  EXPECT_TRUE(holds(task.err, "--set task.max_length: ") && holds(task.err, "got 8 in place of the run's 0"))
      << task.err;
  EXPECT_EQ(outcome_of("evaluate", "task.data=" + path("absent")).code, code_of(ExitCode::missing_input));
  for (const std::string override : {"run.seed=5", "training.batch_size=4", "training.steps=20"})
    EXPECT_EQ(outcome_of("predict", override).code, 0) << override;
  const std::string as_trained = outcome_of("predict", "run.threads=1").out;
  EXPECT_NE(outcome_of("predict", "model.attention.hashes=64").out, as_trained);
  EXPECT_EQ(outcome_of("predict", "model.width=16").code, code_of(ExitCode::bad_data));
}

TEST_F(Predict, OtherClassesOrDamageAreNotScored) {
  expect_done(tern_command({"data", "prepare", "classification", "--train", path("table.tsv"), "--classes",
                            "good,bad", "--out", path("turned")}));
  for (const std::string command : {"evaluate", "predict"}) {
    const Outcome turned = tern_command({command, path("class-run"), "--records", path("turned/test.records")});
    EXPECT_EQ(turned.code, code_of(ExitCode::bad_data)) << command;
    EXPECT_TRUE(holds(turned.err, R"(["bad","good"] in this order)")) << turned.err;
  }
  std::string bytes = read_bytes(path("classes/test.records"));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(path("damaged.records"), bytes);
  for (const std::string command : {"evaluate", "predict"})
    EXPECT_EQ(tern_command({command, path("class-run"), "--records", path("damaged.records")}).code,
              code_of(ExitCode::bad_data))
        << command;
}

TEST_F(Predict, TasksWithoutTextsTakePreparedDataOnly) {
  prepare_short_data(path("listops"));
  expect_done(tern_command(short_training(path("listops"), path("listops-run"), 2)));
  const std::vector<io::Json> rows =
      predicted({path("listops-run"), "--records", path("listops/test.records")});
  ASSERT_EQ(rows.size(), 21U);
  EXPECT_EQ(rows[0]["probabilities"].size(), 10U);
  const Outcome outcome = tern_command({"predict", path("listops-run"), "--input", path("table.tsv")});
  EXPECT_EQ(outcome.code, code_of(ExitCode::failed));
  EXPECT_TRUE(holds(outcome.err, "--records")) << outcome.err;
}

TEST_F(Predict, ModelsOfHiddenTokensHaveNoScores) {
  std::vector<std::string> arguments = training("classification", path("classes"), path("hidden-run"));
  arguments.insert(arguments.end(), {"--set", "objective.kind=masked_tokens"});
  expect_done(tern_command(arguments));
  const Outcome outcome = tern_command({"predict", path("hidden-run"), "--input", path("table.tsv")});
  EXPECT_EQ(outcome.code, code_of(ExitCode::failed));
  EXPECT_TRUE(holds(outcome.err, "must have been trained on labels")) << outcome.err;
}

TEST_F(Predict, PreparingNamesWhatIsWrong) {
  write_bytes(path("bad.tsv"), "label\ttext\ngood\tx\nbad y\nbad\tz\n");
  const std::vector<std::string> arguments{"data",          "prepare", "classification", "--train",
                                           path("bad.tsv"), "--dev",   path("bad.tsv"),  "--test",
                                           path("bad.tsv"), "--out",   path("bad")};
  const Outcome refused = tern_command(arguments);
  EXPECT_EQ(refused.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(refused.err, "bad.tsv:3: a line must have 2 columns")) << refused.err;
  std::vector<std::string> allowed = arguments;
  allowed.insert(allowed.end(), {"--allow-bad", "3"});
  const Outcome done = tern_command(allowed);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(holds(done.out, "label 1: good")) << done.out;
  EXPECT_TRUE(holds(done.out, "3 damaged items were left out")) << done.out;
  EXPECT_TRUE(holds(tern_command(allowed).out, "nothing to do"));
  EXPECT_EQ(tern_command({"data", "prepare", "pair", "--train", path("absent.tsv"), "--out", path("p")}).code,
            code_of(ExitCode::missing_input));
  EXPECT_EQ(tern_command({"data", "prepare", "regression"}).code, code_of(ExitCode::usage));
}

}  // namespace
}  // namespace tern::test
