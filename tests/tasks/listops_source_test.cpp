#include "tasks/listops_source.h"

#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "tasks/prepared_example.h"

namespace tern::tasks {
namespace {

using test::mentions;
using test::PreparedRecord;
using test::read_split;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

class PublishedListops : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_ / "listops-1000");
    write_split("train",
                "( ( ( [MAX 2 ) ( ( ( ( [MIN 4 ) 7 ) 9 ) ] ) ) ] )\t4\n((([SM 9) 8) ])\t7\r\n( ( ( [MED 0 ) 9 "
                ") ] )\t4");
    write_split("val", "5\t5\n");
    write_split("test", "( ( [MAX 3 ) ] )\t3\n");
  }
  void write_split(const std::string& name, const std::string& lines) {
    write_bytes(folder_ / ("listops-1000/basic_" + name + ".tsv"), "Source\tTarget\n" + lines);
  }
  void prepare(std::int64_t allowed_bad = 0) {
    const Sources sources = listops_sources({folder_ / "listops-1000"});
    Preparation preparation({.folder = folder_ / "out", .force = true, .allowed_bad = allowed_bad},
                            published_listops_header(), fingerprints_of(sources));
    prepare_published_listops(sources, preparation);
  }
  TemporaryFolder folder_;
};

TEST_F(PublishedListops, expressions_become_the_ids_of_the_generator) {
  prepare();
  // Digit d is 1 + d; MIN MAX MED SM and the closing mark are 11 ... 15.
  EXPECT_EQ(read_split(folder_ / "out", "train"),
            (std::vector<PreparedRecord>{
                {{{12, 3, 11, 5, 8, 10, 15, 15}}, 4}, {{{14, 10, 9, 15}}, 7}, {{{13, 1, 10, 15}}, 4}}));
  EXPECT_EQ(read_split(folder_ / "out", "dev"), (std::vector<PreparedRecord>{{{{6}}, 5}}));
  EXPECT_EQ(read_split(folder_ / "out", "test"), (std::vector<PreparedRecord>{{{{12, 4, 15}}, 3}}));
}

TEST_F(PublishedListops, damaged_lines_are_named) {
  for (const auto& [line, reason] : {std::pair{"( [MAX 2 ]\t3", "the value of the expression is 2, got 3"},
                                     {"( [FIRST 2 ]\t2", "[FIRST"},
                                     {"( [MAX 2\t2", "must"},
                                     {"2 3\t2", "must form one tree"},
                                     {"12\t2", "\"12\""},
                                     {"2", "must be: expression TAB value"},
                                     {"2\t2\t2", "must be: expression TAB value"},
                                     {"\t2", "must"}}) {
    write_split("val", std::string("5\t5\n") + line + "\n7\t7\n");
    const Error error = thrown_error([&] { prepare(); });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "basic_val.tsv:3: ") && mentions(error, reason)) << error.what();
  }
  prepare(1);
  EXPECT_EQ(read_split(folder_ / "out", "dev"), (std::vector<PreparedRecord>{{{{6}}, 5}, {{{8}}, 7}}));
}

TEST_F(PublishedListops, a_split_without_expressions_is_an_error) {
  write_split("val", "");
  EXPECT_TRUE(mentions(thrown_error([&] { prepare(); }), "must hold records, got none"));
  std::filesystem::remove(folder_ / "listops-1000/basic_val.tsv");
  EXPECT_TRUE(mentions(thrown_error([&] { prepare(); }), "basic_val.tsv is not in it"));
}

}  // namespace
}  // namespace tern::tasks
