#include "tasks/prepared_data.h"

#include <gtest/gtest.h>

#include "io/hash.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "tasks/prepared_example.h"

namespace tern::tasks {
namespace {

using test::mentions;
using test::read_bytes;
using test::TemporaryFolder;
using test::thrown_error;

data::RecordHeader example_header(const std::string& options = R"({"size":3})") {
  data::RecordHeader header;
  header.task = "example";
  header.options = options;
  header.seed = 4;
  header.vocabulary = 10;
  header.classes = 3;
  return header;
}

void append(Preparation& preparation, std::string_view split, const std::vector<std::uint8_t>& ids, int label) {
  preparation.writer(split).append(std::span(ids), std::int32_t{label});
}

/// Two records of train, one of dev, none of test.
void write_example(Preparation& preparation) {
  if (preparation.wants("train")) {
    append(preparation, "train", {1, 2, 3, 4}, 2);
    append(preparation, "train", {5}, 2);
  }
  if (preparation.wants("dev")) append(preparation, "dev", {7, 8}, 0);
  preparation.complete();
}

io::Json manifest_of(const TemporaryFolder& folder) {
  return io::parse_json(read_bytes(folder / "out/manifest.json"), "manifest");
}

class Prepared : public testing::Test {
 protected:
  PreparationOptions options(bool force = false) const {
    return {.folder = folder_ / "out", .force = force, .allowed_bad = 2};
  }
  void make() {
    Preparation preparation(options(), example_header());
    write_example(preparation);
  }
  TemporaryFolder folder_;
};

TEST_F(Prepared, manifest_says_what_was_made_and_from_what) {
  test::write_bytes(folder_ / "source", "abc");
  Preparation preparation(options(), example_header(), {io::fingerprint_of(folder_ / "source")});
  preparation.skip({"train", "source:7", "no label"});
  write_example(preparation);
  const io::Json manifest = manifest_of(folder_);
  EXPECT_EQ(manifest["task"], "example");
  EXPECT_EQ(manifest["seed"], 4);
  EXPECT_EQ(manifest["options"]["size"], 3);
  const io::Json source = manifest["options"]["sources"][0];
  EXPECT_EQ(source["name"], "source");
  EXPECT_EQ(source["bytes"], 3);
  EXPECT_EQ(source["xxh3"], "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(manifest["records"], 3);
  const io::Json train = manifest["splits"]["train"];
  EXPECT_EQ(train["records"], 2);
  EXPECT_EQ(train["shortest"], 1);
  EXPECT_EQ(train["longest"], 4);
  EXPECT_EQ(train["mean_length"], 2.5);
  EXPECT_EQ(train["labels"], io::Json({0, 0, 2}));
  const std::string bytes = read_bytes(folder_ / "out/train.records");
  EXPECT_EQ(train["bytes"], bytes.size());
  EXPECT_EQ(train["xxh3"], io::to_hex(io::hash_of(std::as_bytes(std::span(bytes)))));
  EXPECT_EQ(manifest["skipped_count"], 1);
  EXPECT_EQ(manifest["skipped"][0]["name"], "source:7");
  EXPECT_EQ(manifest["skipped"][0]["reason"], "no label");
}

TEST_F(Prepared, statistics_are_those_of_a_hand_count) {
  make();
  const SplitStatistics all =
      statistics_of({folder_ / "out/train.records", folder_ / "out/dev.records", folder_ / "out/test.records"});
  EXPECT_EQ(all.records, 3);
  EXPECT_EQ(all.labels, (std::vector<std::int64_t>{1, 0, 2}));
  EXPECT_EQ(all.shortest, 1);
  EXPECT_EQ(all.longest, 4);
  EXPECT_DOUBLE_EQ(all.mean_length, 7.0 / 3);
  EXPECT_DOUBLE_EQ(all.majority_share, 2.0 / 3);
  EXPECT_EQ(statistics_of({folder_ / "out/test.records"}).records, 0);
}

TEST_F(Prepared, the_same_data_are_kept) {
  make();
  EXPECT_TRUE(Preparation(options(), example_header()).is_complete());
  EXPECT_FALSE(Preparation(options(true), example_header()).is_complete());
}

TEST_F(Prepared, other_data_are_not_replaced_unasked) {
  make();
  test::write_bytes(folder_ / "source", "abc");
  const std::vector<io::SourceFingerprint> sources{io::fingerprint_of(folder_ / "source")};
  data::RecordHeader other_seed = example_header(), other_task = example_header();
  other_seed.seed = 5;
  other_task.task = "another";
  for (const auto& [header, from] : {std::pair(example_header(R"({"size":4})"), decltype(sources){}),
                                     {other_seed, {}},
                                     {other_task, {}},
                                     {example_header(), sources}}) {
    const Error error = thrown_error([&] { Preparation(options(), header, from); });
    EXPECT_EQ(error.code(), ExitCode::cannot_create);
    EXPECT_TRUE(mentions(error, "--force")) << error.what();
    EXPECT_FALSE(Preparation(options(true), header, from).is_complete());
  }
}

TEST_F(Prepared, only_what_is_missing_or_damaged_is_made_again) {
  make();
  const std::string train = read_bytes(folder_ / "out/train.records"),
                    dev = read_bytes(folder_ / "out/dev.records");
  std::filesystem::remove(folder_ / "out/test.records");
  std::string damaged = dev;
  damaged[4096] = static_cast<char>(damaged[4096] ^ 1);  // the first token
  test::write_bytes(folder_ / "out/dev.records", damaged);
  Preparation preparation(options(), example_header());
  EXPECT_FALSE(preparation.wants("train"));
  EXPECT_TRUE(preparation.wants("dev"));
  EXPECT_TRUE(preparation.wants("test"));
  EXPECT_EQ(thrown_error([&] { preparation.writer("train"); }).code(), ExitCode::failed);
  write_example(preparation);
  EXPECT_EQ(read_bytes(folder_ / "out/dev.records"), dev);
  EXPECT_EQ(read_bytes(folder_ / "out/train.records"), train);
}

TEST_F(Prepared, a_killed_call_goes_on_and_forgets_no_skipped_item) {
  {
    Preparation preparation(options(), example_header());
    preparation.skip({"train", "source:7", "no label"});
    preparation.skip({"dev", "source:9", "no label"});
    append(preparation, "train", {5}, 2);
    preparation.finish("train");
    append(preparation, "dev", {7}, 0);
  }
  test::write_bytes(folder_ / "out/.tmp-leftover", "from a killed process");
  Preparation preparation(options(), example_header());
  EXPECT_FALSE(preparation.wants("train"));
  ASSERT_TRUE(preparation.wants("dev"));
  ASSERT_EQ(preparation.skipped().size(), 1U);  // dev's is found again
  EXPECT_EQ(preparation.skipped()[0].name, "source:7");
  preparation.skip({"train", "source:7", "no label"});
  preparation.skip({"dev", "source:9", "no label"});
  write_example(preparation);
  EXPECT_EQ(manifest_of(folder_)["skipped_count"], 2);
  EXPECT_EQ(test::read_split(folder_ / "out", "train").size(), 1U);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/.tmp-leftover"));
}

TEST_F(Prepared, a_call_killed_before_its_manifest_gets_one) {
  make();
  const std::string manifest = read_bytes(folder_ / "out/manifest.json");
  std::filesystem::remove(folder_ / "out/manifest.json");
  EXPECT_TRUE(Preparation(options(), example_header()).is_complete());
  EXPECT_EQ(read_bytes(folder_ / "out/manifest.json"), manifest);
}

TEST_F(Prepared, a_damaged_manifest_is_told_with_its_remedy) {
  make();
  const std::string manifest = read_bytes(folder_ / "out/manifest.json");
  for (const std::string& damaged : {manifest.substr(0, manifest.size() / 2), std::string("[]"), std::string(),
                                     std::string(R"({"splits": 3, "skipped": [1]})")})
    for (const bool is_split_missing : {false, true}) {
      test::write_bytes(folder_ / "out/manifest.json", damaged);
      if (is_split_missing) std::filesystem::remove(folder_ / "out/test.records");
      const Error error = thrown_error([&] { Preparation(options(), example_header()); });
      EXPECT_EQ(error.code(), ExitCode::bad_data);
      EXPECT_TRUE(mentions(error, "manifest.json: ") && mentions(error, "make the data again with --force"))
          << error.what();
      EXPECT_EQ(read_bytes(folder_ / "out/manifest.json"), damaged);
      Preparation again(options(true), example_header());
      write_example(again);
      EXPECT_EQ(read_bytes(folder_ / "out/manifest.json"), manifest);
    }
}

TEST_F(Prepared, damaged_items_beyond_those_allowed_are_an_error) {
  Preparation preparation(options(), example_header());
  preparation.skip_known({"train", "sample_172.png", "empty"});
  preparation.skip({"train", "a:1", "no label"});
  preparation.skip({"train", "a:\xff", "no \xfe label"});
  const Error error = thrown_error([&] { preparation.skip({"train", "a:3", "two labels"}); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "a:3: two labels") && mentions(error, "--allow-bad")) << error.what();
  write_example(preparation);
  EXPECT_EQ(manifest_of(folder_)["skipped_count"], 3);
  EXPECT_EQ(manifest_of(folder_)["skipped"][2]["name"], "a:\xEF\xBF\xBD");
}

TEST_F(Prepared, one_process_prepares_in_a_folder_at_a_time) {
  const Preparation preparation(options(), example_header());
  EXPECT_EQ(thrown_error([&] { Preparation(options(), example_header()); }).code(), ExitCode::cannot_create);
}

TEST(DataNote, is_that_of_the_options) {
  EXPECT_EQ(data_note(example_header(R"({"note":"generated"})")), "generated");
  EXPECT_EQ(data_note(example_header()), "");
}

}  // namespace
}  // namespace tern::tasks
