#include <gtest/gtest.h>

#include "io/archive.h"
#include "support/tar.h"
#include "support/thrown_error.h"
#include "tasks/prepared_example.h"
#include "tasks/retrieval_source.h"

namespace tern::tasks {
namespace {

using test::ids_of;
using test::mentions;
using test::PreparedRecord;
using test::read_split;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

// Quote marks that open and never close, an empty text, and a last line without its LF.
constexpr const char* train_pairs =
    "0.0\tA1\tB1\t\"open quote\tplain\n1.0\tA2\tB2\tsay \"x\"\t\"\n0.0\tA3\tB3\t\tempty before";
constexpr const char* eval_pairs = "1.0\tA4\tB4\tone\ttwo\n";
constexpr const char* test_pairs = "0.0\tA5\tB5\tthree\tfour\n1.0\tA6\tB6\t0123456789\tshort\n";

PreparedRecord pair_of(const std::string& first, const std::string& second, int label) {
  return {{ids_of(first), ids_of(second)}, label};
}
const std::vector<PreparedRecord> train_records{pair_of("\"open quote", "plain", 0),
                                                pair_of("say \"x\"", "\"", 1), pair_of("", "empty before", 0)};

class Retrieval : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(folder_ / "release/tsv");
    write_bytes(folder_ / "release/tsv/new_aan_pairs.train.tsv", train_pairs);
    write_bytes(folder_ / "release/tsv/new_aan_pairs.eval.tsv", eval_pairs);
    write_bytes(folder_ / "release/tsv/new_aan_pairs.test.tsv", test_pairs);
    std::filesystem::create_directory(folder_ / "acl");
    write_bytes(folder_ / "acl/acl_pairs.tsv",
                "train\t1\tP1\tP2\ntest\t0\tP2\tP1\ndev\t0\tP3\tP3\ntrain\t0\tP3\tP1\n");
    write_bytes(folder_ / "acl/acl_docs.tsv", "P2\tsecond paper\nP1\tfirst\nP3\tthird\n");
  }
  std::filesystem::path out(const std::string& name) const { return folder_ / ("out-" + name); }
  void prepare(const std::string& name, const std::vector<std::filesystem::path>& from,
               const RetrievalOptions& options = {}, std::int64_t allowed_bad = 0) {
    const Sources sources = retrieval_sources(from, options);
    Preparation preparation({.folder = out(name), .force = name == "error", .allowed_bad = allowed_bad},
                            retrieval_header(options), fingerprints_of(sources));
    if (!preparation.is_complete()) prepare_retrieval(sources, options, preparation);
  }
  Error error_of(const std::vector<std::filesystem::path>& from, const RetrievalOptions& options = {}) {
    return thrown_error([&] { prepare("error", from, options); });
  }
  TemporaryFolder folder_;
};

TEST_F(Retrieval, published_pairs_are_read_without_quoting) {
  prepare("folder", {folder_ / "release"});
  EXPECT_EQ(read_split(out("folder"), "train"), train_records);
  EXPECT_EQ(read_split(out("folder"), "dev"), (std::vector{pair_of("one", "two", 1)}));
  EXPECT_EQ(read_split(out("folder"), "test"),
            (std::vector{pair_of("three", "four", 0), pair_of("0123456789", "short", 1)}));
  const data::RecordFile file(out("folder") / "train.records");
  EXPECT_EQ(file.header().task, "retrieval");
  EXPECT_EQ(data_note(file.header()), "");
}

TEST_F(Retrieval, the_release_archive_gives_the_same) {
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  write_bytes(folder_ / "x.tar",
              test::tar_bytes({{"lra_release/listops/basic_train.tsv", "other data", '0', ""},
                               {"lra_release/tsv/new_aan_pairs.test.tsv", test_pairs, '0', ""},
                               {"lra_release/tsv/new_aan_pairs.train.tsv", train_pairs, '0', ""},
                               {"lra_release/tsv/new_aan_pairs.eval.tsv", eval_pairs, '0', ""}}));
  test::shell(folder_.path(), "gzip -c x.tar > lra_release.gz");
  prepare("folder", {folder_ / "release"});
  prepare("archive", {folder_ / "lra_release.gz"});
  for (const std::string_view split : split_names)
    EXPECT_EQ(read_split(out("folder"), split), read_split(out("archive"), split));
}

TEST_F(Retrieval, texts_are_cut_at_the_length_asked_for) {
  prepare("cut", {folder_ / "release"}, {.max_length = 6});
  EXPECT_EQ(read_split(out("cut"), "test"),
            (std::vector{pair_of("three", "four", 0), pair_of("012345", "short", 1)}));
  EXPECT_EQ(error_of({folder_ / "release"}, {.max_length = 0}).code(), ExitCode::failed);
  EXPECT_EQ(error_of({folder_ / "release"}, {.max_length = 10001}).code(), ExitCode::failed);
}

TEST_F(Retrieval, documents_and_pairs_are_a_substitute_and_called_so) {
  prepare("acl", {folder_ / "acl"}, {.is_substitute = true});
  EXPECT_EQ(read_split(out("acl"), "train"),
            (std::vector{pair_of("first", "second paper", 1), pair_of("third", "first", 0)}));
  EXPECT_EQ(read_split(out("acl"), "dev"), (std::vector{pair_of("third", "third", 0)}));
  EXPECT_EQ(read_split(out("acl"), "test"), (std::vector{pair_of("second paper", "first", 0)}));
  for (const std::string_view split : split_names) {
    const data::RecordFile file(split_file(out("acl"), split));
    EXPECT_EQ(file.header().task, "retrieval_substitute");
    EXPECT_TRUE(data_note(file.header()).starts_with("a substitute"));
  }
  prepare("cut", {folder_ / "acl/acl_docs.tsv", folder_ / "acl/acl_pairs.tsv"},
          {.is_substitute = true, .max_length = 3});
  EXPECT_EQ(read_split(out("cut"), "test"), (std::vector{pair_of("sec", "fir", 0)}));
}

TEST_F(Retrieval, lines_may_end_as_on_windows) {
  prepare("unix", {folder_ / "release"});
  prepare("unix-acl", {folder_ / "acl"}, {.is_substitute = true});
  for (const char* name : {"release/tsv/new_aan_pairs.train.tsv", "release/tsv/new_aan_pairs.eval.tsv",
                           "release/tsv/new_aan_pairs.test.tsv", "acl/acl_pairs.tsv", "acl/acl_docs.tsv"})
    test::end_lines_as_on_windows(folder_ / name);
  prepare("windows", {folder_ / "release"});
  prepare("windows-acl", {folder_ / "acl"}, {.is_substitute = true});
  for (const std::string_view split : split_names) {
    EXPECT_EQ(read_split(out("windows"), split), read_split(out("unix"), split));
    EXPECT_EQ(read_split(out("windows-acl"), split), read_split(out("unix-acl"), split));
  }
}

TEST_F(Retrieval, damaged_lines_are_named) {
  const auto train = folder_ / "release/tsv/new_aan_pairs.train.tsv";
  for (const char* line : {"2.0\ta\tb\tc\td", "1.0\ta\tb\tc", "1.0\ta\tb\tc\td\te", "", "yes\ta\tb\tc\td"}) {
    write_bytes(train, std::string(train_pairs) + "\n" + line + "\n");
    const Error error = error_of({folder_ / "release"});
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "new_aan_pairs.train.tsv:4: ")) << error.what();
  }
  prepare("allowed", {folder_ / "release"}, {}, 1);
  EXPECT_EQ(read_split(out("allowed"), "train"), train_records);
}

TEST_F(Retrieval, damaged_documents_and_pairs_are_named) {
  const RetrievalOptions options{.is_substitute = true};
  write_bytes(folder_ / "acl/acl_pairs.tsv", "train\t1\tP1\tP9\n");
  EXPECT_TRUE(mentions(error_of({folder_ / "acl"}, options), "acl_pairs.tsv:1: there is no document P9"));
  write_bytes(folder_ / "acl/acl_pairs.tsv", "training\t1\tP1\tP2\n");
  EXPECT_TRUE(mentions(error_of({folder_ / "acl"}, options), "acl_pairs.tsv:1: must be"));
  write_bytes(folder_ / "acl/acl_pairs.tsv", "train\t1\tP1\tP2\n");
  write_bytes(folder_ / "acl/acl_docs.tsv", "P1\tx\nP2\ty\nP1\tz\n");
  EXPECT_TRUE(mentions(error_of({folder_ / "acl"}, options), "acl_docs.tsv:3: the document P1 comes twice"));
}

TEST_F(Retrieval, a_call_that_was_stopped_by_damage_keeps_what_was_finished) {
  write_bytes(folder_ / "release/tsv/new_aan_pairs.train.tsv", "damaged");
  EXPECT_EQ(error_of({folder_ / "release"}).code(), ExitCode::bad_data);  // dev and test were finished before
  EXPECT_TRUE(std::filesystem::exists(out("error") / "dev.records"));
  EXPECT_FALSE(std::filesystem::exists(out("error") / "train.records"));
}

TEST_F(Retrieval, missing_and_repeated_files_are_named) {
  const auto train = folder_ / "release/tsv/new_aan_pairs.train.tsv";
  EXPECT_TRUE(mentions(error_of({train, train}), "comes twice"));
  EXPECT_TRUE(mentions(error_of({train}), "new_aan_pairs.eval.tsv is not in it"));
  EXPECT_TRUE(mentions(error_of({folder_ / "acl"}), "must hold new_aan_pairs"));
  EXPECT_TRUE(mentions(error_of({folder_ / "acl/acl_docs.tsv"}, {.is_substitute = true}),
                       "acl_pairs.tsv is not in it"));
}

}  // namespace
}  // namespace tern::tasks
