// tern data prepare pathfinder, and training on what it makes.
#include <gtest/gtest.h>

#include "app/command.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

int code_of(ExitCode code) { return static_cast<int>(code); }

class PreparePathfinder : public testing::Test {
 protected:
  Outcome prepare(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"data", "prepare", "pathfinder"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return tern_command(arguments);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  io::Json info(const std::string& name) const {
    return io::parse_json(tern_command({"data", "info", path(name), "--json"}).out, "data info");
  }
  TemporaryFolder folder_;
};

TEST_F(PreparePathfinder, DrawsRecordsImagesAndASheetAndSaysThatTheyAreGenerated) {
  const Outcome made =
      prepare({"--count", "20", "--out", path("data"), "--png", path("png"), "--sheet", path("s.png")});
  EXPECT_EQ(made.code, 0) << made.err;
  for (const char* word : {"generated", "20 records", "1,024"}) EXPECT_TRUE(holds(made.out, word)) << made.out;
  EXPECT_EQ(tern_command({"data", "verify", path("data")}).code, 0);
  const io::Json splits = info("data");  // dev, test, train
  EXPECT_EQ(splits[2]["records"], 16);
  EXPECT_EQ(splits[2]["task"], "pathfinder");
  EXPECT_EQ(splits[2]["options"]["note"], "generated");
  EXPECT_TRUE(fs::exists(folder_ / "png/pathfinder32/curv_contour_length_14/imgs/0/sample_19.png"));
  EXPECT_TRUE(fs::exists(folder_ / "s.png"));
  EXPECT_TRUE(holds(prepare({"--count", "20", "--out", path("data")}).out, "nothing to do"));
  EXPECT_EQ(prepare({"--count", "20", "--out", path("data"), "--seed", "1"}).code,
            code_of(ExitCode::cannot_create));
}

TEST_F(PreparePathfinder, ReadsReleasedImages) {
  ASSERT_EQ(prepare({"--count", "20", "--out", path("data"), "--png", path("png")}).code, 0);
  const Outcome drawn = prepare({"--from", path("png"), "--out", path("drawn")});
  EXPECT_EQ(drawn.code, 0) << drawn.err;
  EXPECT_TRUE(holds(drawn.out, "note: generated")) << drawn.out;
  EXPECT_EQ(info("drawn")[2]["options"]["note"], "generated");
  fs::remove(folder_ / "png/pathfinder32/curv_contour_length_14/note.txt");
  const Outcome made = prepare({"--from", path("png"), "--out", path("released")});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_FALSE(holds(made.out, "generated"));
  EXPECT_EQ(info("released")[2]["records"], 16);
  EXPECT_FALSE(info("released")[2]["options"].contains("note"));
  const Outcome other = prepare({"--from", path("png"), "--size", "64", "--out", path("other")});
  EXPECT_EQ(other.code, code_of(ExitCode::bad_data));
  EXPECT_TRUE(holds(other.err, "pathfinder32/curv_contour_length_14")) << other.err;
  EXPECT_EQ(prepare({"--from", path("absent")}).code, code_of(ExitCode::missing_input));
}

TEST_F(PreparePathfinder, RefusesOptionsThatDoNotExistOrContradict) {
  EXPECT_EQ(prepare({"--size", "48"}).code, code_of(ExitCode::usage));
  EXPECT_EQ(prepare({"--difficulty", "harder"}).code, code_of(ExitCode::usage));
  EXPECT_EQ(prepare({"--count", "9"}).code, code_of(ExitCode::usage));
  EXPECT_EQ(prepare({"--from", path("png"), "--count", "20"}).code, code_of(ExitCode::usage));
}

TEST_F(PreparePathfinder, AModelTrainsOnIt) {
  ASSERT_EQ(prepare({"--count", "40", "--out", path("data")}).code, 0);
  const Outcome trained =
      tern_command({"train", config_file("lra/pathfinder32.yaml"), "--out", path("run"), "--set",
                    "task.data=" + path("data"), "--set", "run.device=cpu", "--set", "training.steps=2",
                    "--set", "schedule.warmup=1", "--set", "training.batch_size=4", "--set",
                    "training.evaluate_every=2", "--set", "training.evaluate_batches=1"});
  EXPECT_EQ(trained.code, 0) << trained.err;
  const io::Json result = io::parse_json(read_bytes(folder_ / "run/result.json"), "result");
  EXPECT_EQ(result["data"]["train"]["options"]["note"], "generated");
}

}  // namespace
}  // namespace tern::test
