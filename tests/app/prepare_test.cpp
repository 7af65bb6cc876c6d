// tern data prepare text, retrieval, image and published ListOps.
#include <cstdlib>

#include <gtest/gtest.h>

#include "app/command.h"
#include "app/published_data.h"
#include "io/archive.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

int code_of(ExitCode code) { return static_cast<int>(code); }

class Prepare : public testing::Test {
 protected:
  void SetUp() override { write_published_data(folder_.path()); }
  /// `tern data prepare TASK --from SOURCE --out FOLDER/out ...`
  Outcome prepare(const std::string& task, const std::string& source,
                  const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments{"data",  "prepare",     task, "--from", (folder_ / source).string(),
                                       "--out", out().string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return tern_command(arguments);
  }
  fs::path out() const { return folder_ / "out"; }
  io::Json info() const {
    return io::parse_json(tern_command({"data", "info", out().string(), "--json"}).out, "data info");
  }
  TemporaryFolder folder_;
};

TEST_F(Prepare, MakesEveryTaskFromItsArchive) {
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  struct Case {
    std::string task, archive;
    int train, dev, test, sequences;
  };
  for (const Case& each : {Case{"text", "aclImdb_v1.tar.gz", 24, 24, 24, 1},
                           {"image", "cifar-10-binary.tar.gz", 45, 5, 10, 1},
                           {"retrieval", "lra_release.gz", 2, 2, 2, 2},
                           {"listops", "lra_release.gz", 2, 2, 2, 1}}) {
    const Outcome made = prepare(each.task, each.archive);
    EXPECT_EQ(made.code, 0) << made.err;
    EXPECT_TRUE(holds(made.out, each.archive)) << made.out;
    EXPECT_TRUE(holds(made.out, "majority")) << made.out;
    EXPECT_TRUE(holds(made.err, "published records")) << made.err;
    EXPECT_EQ(tern_command({"data", "verify", out().string()}).code, 0);
    const io::Json splits = info();  // dev, test, train
    EXPECT_EQ(splits[0]["records"], each.dev);
    EXPECT_EQ(splits[1]["records"], each.test);
    EXPECT_EQ(splits[2]["records"], each.train);
    EXPECT_EQ(splits[2]["task"], each.task);
    EXPECT_EQ(splits[2]["sequences_per_record"], each.sequences);
    EXPECT_EQ(splits[2]["options"]["sources"][0]["name"], each.archive);
    EXPECT_TRUE(holds(prepare(each.task, each.archive).out, "nothing to do"));
    fs::remove_all(out());
  }
}

TEST_F(Prepare, MakesTextFromFolderAndTables) {
  EXPECT_EQ(prepare("text", "aclImdb").code, 0);
  EXPECT_EQ(info()[2]["records"], 24);
  const Outcome made =
      prepare("text", "imdb_train.tsv", {"--from", folder_ / "imdb_test.tsv", "--dev", "4", "--force"});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(info()[0]["records"], 4);
  EXPECT_EQ(info()[2]["records"], 20);
}

TEST_F(Prepare, CallsASubstituteSoEverywhere) {
  const Outcome made = prepare("retrieval", "acl_pairs", {"--source", "acl_pairs"});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_TRUE(holds(made.out, "a substitute"));
  EXPECT_EQ(info()[2]["task"], "retrieval_substitute");
  EXPECT_TRUE(holds(tern_command({"data", "info", out().string()}).out, "a substitute"));
  std::vector<std::string> training{"train", config_file("lra/retrieval.yaml"), "--out", folder_ / "run"};
  for (const std::string& override :
       {"task.data=" + out().string(), std::string("task.max_length=20"), std::string("task.padded_length=24"),
        std::string("model.width=8"), std::string("model.hidden_width=8"), std::string("model.head_width=8"),
        std::string("run.device=cpu"), std::string("training.steps=2"), std::string("training.batch_size=4"),
        std::string("training.evaluate_every=2"), std::string("training.checkpoint_every=2"),
        std::string("training.evaluate_batches=1"), std::string("schedule.warmup=1")})
    training.insert(training.end(), {"--set", override});
  const Outcome trained = tern_command(training);
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_TRUE(holds(trained.err, "the data are a substitute")) << trained.err;
  const Outcome scored = tern_command({"evaluate", folder_ / "run"});
  EXPECT_EQ(scored.code, 0) << scored.err;
  EXPECT_TRUE(holds(scored.out, "a substitute")) << scored.out;
  EXPECT_TRUE(holds(tern_command({"evaluate", folder_ / "run", "--json"}).out, "a substitute"));
}

TEST_F(Prepare, MistakesHaveTheirExitCodes) {
  EXPECT_EQ(tern_command({"data", "prepare", "text"}).code, code_of(ExitCode::usage));
  EXPECT_EQ(prepare("listops", "lra_release.gz", {"--seed", "3"}).code, code_of(ExitCode::usage));
  EXPECT_EQ(prepare("retrieval", "acl_pairs", {"--source", "another"}).code, code_of(ExitCode::usage));
  EXPECT_EQ(prepare("text", "nothing").code, code_of(ExitCode::missing_input));
  const Outcome wrong = prepare("image", "aclImdb");
  EXPECT_EQ(wrong.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(wrong.err, "must hold data_batch")) << wrong.err;
  write_bytes(folder_ / "aclImdb/train/pos/0_8.txt", "");
  const Outcome empty = prepare("text", "aclImdb");
  EXPECT_EQ(empty.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(empty.err, "0_8.txt") && holds(empty.err, "--allow-bad")) << empty.err;
  EXPECT_FALSE(fs::exists(out() / "train.records"));
}

TEST_F(Prepare, ItemsLeftOutAreCountedAndNamed) {
  write_bytes(folder_ / "aclImdb/train/pos/0_8.txt", "");
  const Outcome made = prepare("text", "aclImdb", {"--allow-bad", "1"});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_TRUE(holds(made.err, "0_8.txt: an empty review")) << made.err;
  EXPECT_TRUE(holds(made.out, "1 damaged items were left out"));
  EXPECT_TRUE(holds(read_bytes(out() / "manifest.json"), "0_8.txt"));
}

TEST_F(Prepare, AKilledCallGoesOnWhereItStopped) {
  const std::string command = "data prepare text --from aclImdb --out out";
  // The second rename would let dev.records appear.
  setenv("TERN_FAULT", "rename:2:kill", 1);
  const Outcome killed = tern_process(command, folder_.path());
  unsetenv("TERN_FAULT");
  EXPECT_NE(killed.code, 0);
  ASSERT_TRUE(fs::exists(out() / "train.records"));
  EXPECT_FALSE(fs::exists(out() / "dev.records"));
  const auto made = fs::last_write_time(out() / "train.records");
  EXPECT_EQ(tern_process(command, folder_.path()).code, 0);
  EXPECT_EQ(fs::last_write_time(out() / "train.records"), made);
  EXPECT_EQ(info()[0]["records"], 24);
  for (const auto& entry : fs::directory_iterator(out()))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp")) << entry.path();
}

}  // namespace
}  // namespace tern::test
