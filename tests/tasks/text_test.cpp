#include <algorithm>

#include <gtest/gtest.h>

#include "io/archive.h"
#include "support/tar.h"
#include "support/thrown_error.h"
#include "tasks/prepared_example.h"
#include "tasks/text_source.h"

namespace tern::tasks {
namespace {

using test::ids_of;
using test::mentions;
using test::PreparedRecord;
using test::read_split;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

// Six reviews of train and three of test, in an order of their own, among files that are not wanted.
const std::vector<test::TarEntry> release{{"aclImdb/README", "not a review", '0', ""},
                                          {"aclImdb/train/unsup/0_0.txt", "without a label", '0', ""},
                                          {"aclImdb/train/pos/10_9.txt", "fine", '0', ""},
                                          {"aclImdb/train/pos/2_7.txt", "good\ttabs", '0', ""},
                                          {"aclImdb/train/neg/0_1.txt", "bad<br />", '0', ""},
                                          {"aclImdb/train/neg/1_4.txt", "\xc3\xa9\xff", '0', ""},
                                          {"aclImdb/train/neg/2_4.txt", "poor", '0', ""},
                                          {"aclImdb/train/pos/0_10.txt", "great", '0', ""},
                                          {"aclImdb/test/neg/0_2.txt", "dull", '0', ""},
                                          {"aclImdb/test/pos/0_8.txt", "nice", '0', ""},
                                          {"aclImdb/test/pos/1_8.txt", "lovely", '0', ""},
                                          {"aclImdb/train/urls_pos.txt", "urls", '0', ""}};
constexpr const char* train_table =
    "0\t2\t4\tpoor\n1\t0\t10\tgreat\n0\t0\t1\tbad<br "
    "/>\n1\t10\t9\tfine\n0\t1\t4\t\xc3\xa9\xff\n1\t2\t7\tgood\ttabs\n";
constexpr const char* test_table = "1\t1\t8\tlovely\n0\t0\t2\tdull\n1\t0\t8\tnice";

std::vector<PreparedRecord> sorted(std::vector<PreparedRecord> records) {
  std::sort(records.begin(), records.end());
  return records;
}
const std::vector<PreparedRecord> train_records = sorted({{{ids_of("fine")}, 1},
                                                          {{ids_of("good\ttabs")}, 1},
                                                          {{ids_of("great")}, 1},
                                                          {{ids_of("bad<br />")}, 0},
                                                          {{{0xc3 + 1, 0xa9 + 1, 256}}, 0},
                                                          {{ids_of("poor")}, 0}});
const std::vector<PreparedRecord> test_records =
    sorted({{{ids_of("dull")}, 0}, {{ids_of("nice")}, 1}, {{ids_of("lovely")}, 1}});

class Text : public testing::Test {
 protected:
  std::filesystem::path out(const std::string& name) const { return folder_ / ("out-" + name); }
  void prepare(const std::string& name, const std::vector<std::filesystem::path>& from,
               const TextOptions& options = {}, std::int64_t allowed_bad = 0) {
    const Sources sources = text_sources(from);
    Preparation preparation({.folder = out(name), .force = name == "error", .allowed_bad = allowed_bad},
                            text_header(options), fingerprints_of(sources));
    prepare_text(sources, options, preparation);
  }
  Error error_of(const std::vector<std::filesystem::path>& from, const TextOptions& options = {}) {
    return thrown_error([&] { prepare("error", from, options); });
  }
  void write_tables() {
    write_bytes(folder_ / "imdb_train.tsv", train_table);
    write_bytes(folder_ / "imdb_test.tsv", test_table);
  }
  void write_folder(const std::vector<test::TarEntry>& entries = release) {
    for (const test::TarEntry& entry : entries) {
      std::filesystem::create_directories((folder_ / entry.name).parent_path());
      write_bytes(folder_ / entry.name, entry.content);
    }
  }
  TemporaryFolder folder_;
};

TEST_F(Text, records_are_the_bytes_plus_one_with_their_labels) {
  write_folder();
  prepare("folder", {folder_ / "aclImdb"});
  EXPECT_EQ(sorted(read_split(out("folder"), "train")), train_records);
  EXPECT_EQ(sorted(read_split(out("folder"), "dev")), test_records);
  EXPECT_EQ(sorted(read_split(out("folder"), "test")), test_records);
}

TEST_F(Text, archive_folder_and_tables_give_the_same_records_in_the_same_order) {
  write_folder();
  write_tables();
  prepare("folder", {folder_ / "aclImdb"}, {.seed = 3});
  prepare("tables", {folder_ / "imdb_test.tsv", folder_ / "imdb_train.tsv"}, {.seed = 3});
  for (const std::string_view split : split_names)
    EXPECT_EQ(read_split(out("folder"), split), read_split(out("tables"), split));
  if (!io::has_archive()) return;
  write_bytes(folder_ / "x.tar", test::tar_bytes(release));
  test::shell(folder_.path(),
              "gzip -c x.tar > aclImdb_v1.tar.gz; mkdir packs; xz -c imdb_train.tsv > packs/imdb_train.tsv.xz;"
              " xz -c imdb_test.tsv > packs/imdb_test.tsv.xz");
  prepare("archive", {folder_ / "aclImdb_v1.tar.gz"}, {.seed = 3});
  prepare("packs", {folder_ / "packs"}, {.seed = 3});
  for (const std::string_view split : split_names) {
    EXPECT_EQ(read_split(out("folder"), split), read_split(out("archive"), split));
    EXPECT_EQ(read_split(out("folder"), split), read_split(out("packs"), split));
  }
}

TEST_F(Text, the_seed_decides_the_order_and_what_is_held_out) {
  write_tables();
  const std::vector<std::filesystem::path> from{folder_ / "imdb_train.tsv", folder_ / "imdb_test.tsv"};
  prepare("0", from);
  prepare("1", from, {.seed = 1});
  EXPECT_NE(read_split(out("0"), "train"), read_split(out("1"), "train"));
  EXPECT_EQ(sorted(read_split(out("1"), "train")), train_records);
  prepare("held", from, {.held_out = 2, .seed = 1});
  const auto train = read_split(out("held"), "train"), dev = read_split(out("held"), "dev");
  EXPECT_EQ(train.size(), 4U);
  EXPECT_EQ(dev.size(), 2U);
  std::vector<PreparedRecord> both = train;
  both.insert(both.end(), dev.begin(), dev.end());
  EXPECT_EQ(both, read_split(out("1"), "train"));
  EXPECT_EQ(read_split(out("held"), "test"), read_split(out("1"), "test"));
  EXPECT_EQ(error_of(from, {.held_out = 6}).code(), ExitCode::failed);
}

TEST_F(Text, damaged_lines_are_named_and_left_out_only_if_allowed) {
  write_tables();
  write_bytes(folder_ / "imdb_train.tsv",
              std::string("2\t9\t4\tlabel\n0\tx\t4\tid\n0\t9\t4\n0\t9\t4\t\n\n") + train_table);
  const std::vector<std::filesystem::path> from{folder_ / "imdb_train.tsv", folder_ / "imdb_test.tsv"};
  const Error error = error_of(from);
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "imdb_train.tsv:1: ")) << error.what();
  EXPECT_EQ(thrown_error([&] { prepare("few", from, {}, 4); }).code(), ExitCode::bad_data);
  prepare("allowed", from, {}, 5);
  EXPECT_EQ(sorted(read_split(out("allowed"), "train")), train_records);
  const io::Json manifest = io::parse_json(test::read_bytes(out("allowed") / "manifest.json"), "manifest");
  EXPECT_EQ(manifest["skipped_count"], 5);
  EXPECT_TRUE(manifest["skipped"][4]["name"].get<std::string>().ends_with("imdb_train.tsv:5"));
}

TEST_F(Text, an_empty_review_is_named) {
  write_folder();
  write_bytes(folder_ / "aclImdb/train/neg/1_4.txt", "");
  const Error error = error_of({folder_ / "aclImdb"});
  EXPECT_TRUE(mentions(error, "train/neg/1_4.txt: an empty review")) << error.what();
}

TEST_F(Text, wrong_sources_are_told_what_is_wanted) {
  write_folder();
  write_tables();
  EXPECT_TRUE(mentions(error_of({folder_ / "imdb_train.tsv"}), "no review of the split test"));
  EXPECT_TRUE(mentions(error_of({folder_ / "aclImdb", folder_ / "imdb_train.tsv"}), "train/neg/0 comes twice"));
  const Error none = error_of({folder_ / "aclImdb/train/unsup"});
  EXPECT_EQ(none.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(none, "must hold aclImdb/{train,test}") && mentions(none, "0_0.txt")) << none.what();
  EXPECT_EQ(error_of({folder_ / "none"}).code(), ExitCode::missing_input);
}

TEST_F(Text, nothing_is_left_by_a_truncated_archive) {
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  write_bytes(folder_ / "x.tar", test::tar_bytes(release));
  test::shell(folder_.path(), "gzip -c x.tar | head -c 300 > cut.tar.gz");
  EXPECT_EQ(error_of({folder_ / "cut.tar.gz"}).code(), ExitCode::bad_data);
  EXPECT_FALSE(std::filesystem::exists(out("error") / "train.records"));
}

}  // namespace
}  // namespace tern::tasks
