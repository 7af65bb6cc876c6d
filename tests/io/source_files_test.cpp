#include "io/source_files.h"

#include <filesystem>
#include <utility>

#include <gtest/gtest.h>

#include "io/archive.h"
#include "support/tar.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

using test::mentions;
using test::shell;
using test::tar_bytes;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

using Files = std::vector<std::pair<std::string, std::string>>;

Files all_files(const std::filesystem::path& path, const NameFilter& wanted = {}) {
  SourceFiles source(path, wanted);
  Files files;
  while (source.next()) files.emplace_back(source.name(), source.read());
  return files;
}

Error error_of(const std::filesystem::path& path) {
  return thrown_error([&] { all_files(path); });
}

const std::vector<test::TarEntry> entries{{"./set/", "", '5', ""},
                                          {"./set/b.txt", "second\n", '0', ""},
                                          {"./set/a.txt", std::string(5000, 'a'), '0', ""},
                                          {"../outside.txt", "", '0', ""}};
const Files expected{{"set/b.txt", "second\n"}, {"set/a.txt", std::string(5000, 'a')}, {"../outside.txt", ""}};

class Archives : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_archive()) GTEST_SKIP() << "this build reads no archives";
    write_bytes(folder_ / "x.tar", tar_bytes(entries));
  }
  std::filesystem::path made(const std::string& name, const std::string& command) {
    shell(folder_.path(), command);
    return folder_ / name;
  }
  TemporaryFolder folder_;
};

TEST(SourceFiles, gives_the_files_of_a_folder_in_the_order_of_their_names) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "set/deep");
  write_bytes(folder / "set/b", "2");
  write_bytes(folder / "set/a", "1");
  write_bytes(folder / "set/deep/c", "3");
  write_bytes(folder / "set/B", "0");
  std::filesystem::create_symlink(folder / "set/b", folder / "set/link");
  EXPECT_EQ(all_files(folder / "set"),
            (Files{{"B", "0"}, {"a", "1"}, {"b", "2"}, {"deep/c", "3"}, {"link", "2"}}));
  EXPECT_EQ(all_files(folder / "set", [](std::string_view name) { return name.starts_with("deep/"); }),
            (Files{{"deep/c", "3"}}));
}

TEST(SourceFiles, gives_a_plain_file_as_itself) {
  const TemporaryFolder folder;
  write_bytes(folder / "x.tsv", "a\tb\n");
  write_bytes(folder / "empty", "");
  EXPECT_EQ(all_files(folder / "x.tsv"), (Files{{"x.tsv", "a\tb\n"}}));
  EXPECT_EQ(all_files(folder / "empty"), (Files{{"empty", ""}}));
  EXPECT_EQ(all_files(folder / "x.tsv", [](std::string_view name) { return name == "y"; }), Files{});
}

TEST(SourceFiles, reads_lines_and_says_where_they_stand) {
  const TemporaryFolder folder;
  const std::string longest(300000, 'x');  // more than one buffer
  write_bytes(folder / "lines", "one\r\n\n" + longest + "\na\rb\r\r\nthe last\r");
  SourceFiles source(folder / "lines");
  ASSERT_TRUE(source.next());
  std::string line;
  std::vector<std::string> lines;
  while (source.read_line(line)) lines.push_back(line);
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "", longest, "a\rb\r", "the last"}));
  EXPECT_EQ(source.line(), 5);
  EXPECT_EQ(source.where(), (folder / "lines").string() + ":5");
  EXPECT_FALSE(source.next());
}

TEST(SourceFiles, keeps_to_the_cap) {
  const TemporaryFolder folder;
  write_bytes(folder / "lines", "12345\n123456\n");
  SourceFiles source(folder / "lines");
  ASSERT_TRUE(source.next());
  std::string line;
  ASSERT_TRUE(source.read_line(line, 5));
  const Error error = thrown_error([&] { source.read_line(line, 5); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "lines:2: must have at most 5 bytes")) << error.what();
  SourceFiles again(folder / "lines");
  ASSERT_TRUE(again.next());
  EXPECT_EQ(thrown_error([&] { again.read(12); }).code(), ExitCode::bad_data);
}

TEST(SourceFiles, what_is_not_there_is_missing_input) {
  const TemporaryFolder folder;
  EXPECT_EQ(error_of(folder / "none").code(), ExitCode::missing_input);
  EXPECT_EQ(error_of("/dev/null").code(), ExitCode::missing_input);
}

TEST_F(Archives, are_read_whatever_their_name_and_compression) {
  EXPECT_EQ(all_files(folder_ / "x.tar"), expected);
  EXPECT_EQ(all_files(made("plain_name", "gzip -c x.tar > plain_name")), expected);
  EXPECT_EQ(all_files(made("release.gz", "gzip -c x.tar > release.gz")), expected);
  EXPECT_EQ(all_files(made("x.tar.xz", "xz -k x.tar")), expected);
  EXPECT_EQ(
      all_files(made("x.zip",
                     "python3 -c 'import zipfile as z; f = z.ZipFile(\"x.zip\", \"w\", z.ZIP_DEFLATED); "
                     "f.writestr(\"set/b.txt\", \"second\\n\"); f.writestr(\"a\", \"a\" * 5000); f.close()'")),
      (Files{{"set/b.txt", "second\n"}, {"a", std::string(5000, 'a')}}));
  EXPECT_EQ(all_files(folder_ / "x.tar", [](std::string_view name) { return name == "set/a.txt"; }),
            (Files{expected[1]}));
}

TEST_F(Archives, a_compressed_file_counts_under_its_bare_name) {
  write_bytes(folder_ / "t.tsv", "1\tx\n");
  EXPECT_EQ(all_files(made("t.tsv.gz", "gzip -k t.tsv")), (Files{{"t.tsv", "1\tx\n"}}));
  EXPECT_EQ(all_files(made("t.tsv.xz", "xz -k t.tsv")), (Files{{"t.tsv", "1\tx\n"}}));
  std::filesystem::create_directory(folder_ / "pack");
  shell(folder_.path(), "xz -c t.tsv > pack/t.tsv.xz; echo b > pack/s");
  EXPECT_EQ(all_files(folder_ / "pack"), (Files{{"s", "b\n"}, {"t.tsv", "1\tx\n"}}));
}

TEST_F(Archives, links_and_devices_are_refused_by_name) {
  for (const char type : {'1', '2', '3'}) {
    write_bytes(folder_ / "bad.tar",
                tar_bytes({{"fine", "1", '0', ""}, {"set/evil", "", type, "/etc/passwd"}}));
    const Error error = error_of(folder_ / "bad.tar");
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "bad.tar: set/evil: ") && mentions(error, "link or device")) << error.what();
    const auto wanted = [](std::string_view name) { return name == "fine"; };
    EXPECT_EQ(all_files(folder_ / "bad.tar", wanted), (Files{{"fine", "1"}}));
  }
}

TEST_F(Archives, damage_is_an_error_that_names_the_archive) {
  const std::string tar = tar_bytes(entries);
  write_bytes(folder_ / "cut.tar", tar.substr(0, 3 * 512 + 700));
  EXPECT_TRUE(mentions(error_of(folder_ / "cut.tar"), "cut.tar: set/a.txt"))
      << error_of(folder_ / "cut.tar").what();
  std::string gzip = test::read_bytes(made("x.tar.gz", "gzip -k x.tar"));
  for (const std::size_t size : {gzip.size() - 1, gzip.size() - 8, gzip.size() / 2, std::size_t{12}}) {
    write_bytes(folder_ / "cut.gz", gzip.substr(0, size));
    const Error error = error_of(folder_ / "cut.gz");
    EXPECT_EQ(error.code(), ExitCode::bad_data) << size;
    EXPECT_TRUE(mentions(error, "cut.gz")) << error.what();
  }
  gzip[gzip.size() - 6] = static_cast<char>(gzip[gzip.size() - 6] ^ 1);  // the checksum of the contents
  write_bytes(folder_ / "sum.gz", gzip);
  EXPECT_EQ(error_of(folder_ / "sum.gz").code(), ExitCode::bad_data);
  std::string xz = test::read_bytes(made("x.tar.xz", "xz -k x.tar"));
  xz[xz.size() / 2] = static_cast<char>(xz[xz.size() / 2] ^ 4);
  write_bytes(folder_ / "sum.xz", xz);
  EXPECT_EQ(error_of(folder_ / "sum.xz").code(), ExitCode::bad_data);
}

TEST_F(Archives, the_sum_behind_the_last_entry_is_checked) {
  write_bytes(folder_ / "long.tar", tar_bytes(entries) + std::string(1 << 20, '\0'));
  std::string gzip = test::read_bytes(made("long.tar.gz", "gzip -k long.tar"));
  EXPECT_EQ(all_files(folder_ / "long.tar.gz"), expected);
  gzip[gzip.size() - 6] = static_cast<char>(gzip[gzip.size() - 6] ^ 1);
  write_bytes(folder_ / "sum.gz", gzip);
  EXPECT_TRUE(mentions(error_of(folder_ / "sum.gz"), "sum.gz: must be readable"));
}

TEST_F(Archives, behind_damage_every_step_fails_again) {
  write_bytes(folder_ / "cut.tar", tar_bytes(entries).substr(0, 3 * 512 + 700));
  SourceFiles source(folder_ / "cut.tar");
  ASSERT_TRUE(source.next());
  ASSERT_TRUE(source.next());
  EXPECT_EQ(thrown_error([&] { source.read(); }).code(), ExitCode::bad_data);
  EXPECT_EQ(thrown_error([&] { source.next(); }).code(), ExitCode::bad_data);
}

TEST_F(Archives, a_great_expansion_stops_at_the_cap) {
  const auto path = made("long.gz", "yes | head -c 70000000 | gzip -1 > long.gz");
  const Error error = error_of(path);
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "at most 67108864 bytes")) << error.what();
}

TEST(SourceFingerprint, of_a_file_is_the_hash_of_its_bytes) {
  const TemporaryFolder folder;
  write_bytes(folder / "x", "abc");
  const SourceFingerprint print = fingerprint_of(folder / "x");
  EXPECT_EQ(print.name, "x");
  EXPECT_EQ(print.files, 1);
  EXPECT_EQ(print.bytes, 3);
  EXPECT_EQ(to_hex(print.hash), "06b05ab6733a618578af5f94892f3950");  // xxhsum -H2 of "abc"
}

TEST(SourceFingerprint, of_a_folder_knows_names_and_contents_of_what_is_wanted) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "set");
  write_bytes(folder / "set/a", "abc");
  write_bytes(folder / "set/b", "x");
  const NameFilter wanted = [](std::string_view name) { return name != "b"; };
  const SourceFingerprint print = fingerprint_of(folder / "set/", wanted);
  const std::string line = "06b05ab6733a618578af5f94892f3950 a\n";
  EXPECT_EQ(print.name, "set");
  EXPECT_EQ(print.files, 1);
  EXPECT_EQ(print.bytes, 3);
  EXPECT_EQ(print.hash, hash_of(std::as_bytes(std::span(line))));
  EXPECT_NE(print.hash, fingerprint_of(folder / "set").hash);
  write_bytes(folder / "set/a", "abd");
  EXPECT_NE(print.hash, fingerprint_of(folder / "set", wanted).hash);
  std::filesystem::rename(folder / "set/a", folder / "set/c");
  write_bytes(folder / "set/c", "abc");
  EXPECT_NE(print.hash, fingerprint_of(folder / "set", wanted).hash);
}

}  // namespace
}  // namespace tern::io
