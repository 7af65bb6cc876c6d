#include "io/atomic_file.h"

#include <utility>

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/mapped_file.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

using test::mentions;
using test::read_bytes;
using test::TemporaryFolder;
using test::thrown_error;

/// Injects one fault while it lives.
class Fault {
 public:
  explicit Fault(const std::string& plan) {
    ::setenv("TERN_FAULT", plan.c_str(), 1);
    reset_faults();
  }
  ~Fault() {
    ::unsetenv("TERN_FAULT");
    reset_faults();
  }
};

const std::string old_text(70000, 'a');
const std::string new_text = std::string(3 << 20, 'b') + "end";

void save(const std::filesystem::path& path) {
  AtomicFile file(path);
  file.write(std::string_view(new_text).substr(0, 5));
  file.write(std::string_view(new_text).substr(5));
  file.overwrite(0, std::as_bytes(std::span(std::string_view("b"))));
  file.commit();
}

std::int64_t calls_of_save(const std::filesystem::path& path) {
  reset_faults();
  save(path);
  return file_calls();
}

TEST(atomic_file, writes_and_replaces_whole_files) {
  TemporaryFolder folder;
  write_file(folder / "x", "first");
  EXPECT_EQ(read_bytes(folder / "x"), "first");
  save(folder / "x");
  EXPECT_EQ(read_bytes(folder / "x"), new_text);
  write_file(folder / "x", "");
  EXPECT_EQ(read_bytes(folder / "x"), "");
  EXPECT_EQ(folder.entries(), 1);
}

TEST(atomic_file, is_invisible_before_commit_and_leaves_nothing_without_it) {
  TemporaryFolder folder;
  {
    AtomicFile file(folder / "x");
    file.write(new_text);
    EXPECT_FALSE(std::filesystem::exists(folder / "x"));
    EXPECT_EQ(folder.entries(), 1);
    EXPECT_EQ(file.size(), static_cast<std::int64_t>(new_text.size()));
  }
  EXPECT_EQ(folder.entries(), 0);
}

TEST(atomic_file, overwrite_stays_inside_what_was_written) {
  TemporaryFolder folder;
  AtomicFile file(folder / "x");
  file.write("0123456789");
  file.overwrite(3, std::as_bytes(std::span(std::string_view("abc"))));
  EXPECT_THROW(file.overwrite(8, std::as_bytes(std::span(std::string_view("abc")))), Error);
  file.write("!");
  file.commit();
  EXPECT_EQ(read_bytes(folder / "x"), "012abc6789!");
  EXPECT_THROW(file.write("more"), Error);
}

TEST(atomic_file, a_full_or_failing_disk_at_any_call_keeps_the_old_file_and_no_temporary) {
  TemporaryFolder folder;
  const std::int64_t calls = calls_of_save(folder / "probe");
  ASSERT_GE(calls, 6);
  std::filesystem::remove(folder / "probe");
  for (const std::string effect : {"enospc", "eio"}) {
    for (std::int64_t call = 1; call <= calls; ++call) {
      test::write_bytes(folder / "x", old_text);
      const Fault fault("any:" + std::to_string(call) + ":" + effect);
      const Error error = thrown_error([&] { save(folder / "x"); });
      EXPECT_EQ(error.code(), ExitCode::io_error) << error.what();
      EXPECT_TRUE(mentions(error, folder.path().string())) << error.what();
      EXPECT_TRUE(mentions(error, effect == "enospc" ? "free disk space" : "check the disk")) << error.what();
      // Only the last call, the sync of the folder, comes after the rename.
      EXPECT_EQ(read_bytes(folder / "x"), call < calls ? old_text : new_text) << "call " << call;
      EXPECT_EQ(folder.entries(), 1) << "call " << call;
    }
  }
}

TEST(atomic_file, a_kill_at_any_call_leaves_the_old_or_the_new_file) {
  TemporaryFolder folder;
  const std::int64_t calls = calls_of_save(folder / "probe");
  int old_files = 0, new_files = 0;
  for (std::int64_t call = 1; call <= calls; ++call) {
    test::write_bytes(folder / "x", old_text);
    const pid_t child = ::fork();
    ASSERT_NE(child, -1);
    if (child == 0) {
      const Fault fault("any:" + std::to_string(call) + ":kill");
      save(folder / "x");
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "call " << call;
    const std::string text = read_bytes(folder / "x");
    old_files += text == old_text;
    new_files += text == new_text;
  }
  EXPECT_EQ(old_files + new_files, calls);
  EXPECT_EQ(new_files, 1);
  EXPECT_GT(remove_temporaries(folder.path()), 0);
  EXPECT_EQ(folder.entries(), 2);
}

TEST(atomic_file, bytes_reach_the_disk_before_the_rename_and_the_folder_after_it) {
  TemporaryFolder folder;
  for (const auto& [plan, expected] :
       {std::pair{"fsync:1:eio", &old_text}, std::pair{"rename:1:eio", &old_text},
        std::pair{"fsync:2:eio", &new_text}}) {
    test::write_bytes(folder / "x", old_text);
    const Fault fault(plan);
    EXPECT_THROW(save(folder / "x"), Error) << plan;
    EXPECT_EQ(read_bytes(folder / "x"), *expected) << plan;
  }
}

TEST(atomic_file, short_writes_are_continued) {
  TemporaryFolder folder;
  for (int call = 1; call <= 3; ++call) {
    const Fault fault("write:" + std::to_string(call) + ":short");
    save(folder / "x");
    EXPECT_EQ(read_bytes(folder / "x"), new_text);
  }
}

TEST(atomic_file, a_folder_that_is_missing_or_read_only_is_named) {
  TemporaryFolder folder;
  const Error missing = thrown_error([&] { write_file(folder / "none/x", "text"); });
  EXPECT_EQ(missing.code(), ExitCode::cannot_create);
  EXPECT_TRUE(mentions(missing, "create the folder first"));
  test::write_bytes(folder / "file", "text");
  EXPECT_EQ(thrown_error([&] { write_file(folder / "file/x", "text"); }).code(), ExitCode::cannot_create);
  EXPECT_EQ(thrown_error([&] { make_directory(folder / "file/x"); }).code(), ExitCode::cannot_create);
  EXPECT_EQ(thrown_error([&] { make_directory(folder / "file"); }).code(), ExitCode::cannot_create);
}

TEST(atomic_file, a_map_of_the_replaced_file_keeps_its_bytes) {
  TemporaryFolder folder;
  for (int i = 0; i < 20; ++i) {
    write_file(folder / "x", old_text);
    const MappedFile map(folder / "x");
    save(folder / "x");
    const std::string_view seen(reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size());
    ASSERT_EQ(seen, old_text);
  }
}

TEST(atomic_file, appending_keeps_what_is_there) {
  TemporaryFolder folder;
  for (const std::string_view text : {"one ", "two"}) {
    OutputFile file(folder / "log", OutputFile::Mode::append);
    file.write(std::as_bytes(std::span(text)));
  }
  EXPECT_EQ(read_bytes(folder / "log"), "one two");
  EXPECT_EQ(thrown_error([&] { OutputFile(folder / "log", OutputFile::Mode::create_new); }).code(),
            ExitCode::cannot_create);
}

TEST(folders, are_made_with_parents_and_removed_without_following_links) {
  TemporaryFolder folder;
  make_directory(folder / "a/b/c/");
  make_directory(folder / "a/b/c");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b/c"));
  test::write_bytes(folder / "kept", "text");
  std::filesystem::create_directory(folder / "kept-folder");
  test::write_bytes(folder / "kept-folder/y", "text");
  std::filesystem::create_symlink(folder / "kept-folder", folder / "a/b/link");
  test::write_bytes(folder / "a/b/c/x", "text");
  remove_tree(folder / "a");
  remove_tree(folder / "a");
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  EXPECT_TRUE(std::filesystem::exists(folder / "kept-folder/y"));
  EXPECT_EQ(folder.entries(), 2);
}

TEST(folders, free_space_is_known_for_paths_that_do_not_exist_yet) {
  TemporaryFolder folder;
  EXPECT_GT(free_bytes(folder.path()), 0);
  EXPECT_GT(free_bytes(folder / "not/there/yet"), 0);
  EXPECT_GT(free_bytes("not-there"), 0);
  write_file(folder / "file", "");
  EXPECT_TRUE(is_writable(folder.path()) && is_writable(folder / "not/there/yet") && is_writable(""));
  EXPECT_FALSE(is_writable(folder / "file/below")) << "no folder can be made there";
}

TEST(read_file, names_missing_and_oversized_files) {
  TemporaryFolder folder;
  test::write_bytes(folder / "x", "0123456789");
  EXPECT_EQ(read_file(folder / "x", 10), "0123456789");
  EXPECT_EQ(thrown_error([&] { read_file(folder / "x", 9); }).code(), ExitCode::bad_data);
  EXPECT_EQ(thrown_error([&] { read_file(folder / "y", 9); }).code(), ExitCode::missing_input);
  EXPECT_EQ(thrown_error([&] { read_file(folder.path(), 9); }).code(), ExitCode::missing_input);
}

TEST(mapped_file, maps_files_and_refuses_everything_else) {
  TemporaryFolder folder;
  test::write_bytes(folder / "x", "0123456789");
  test::write_bytes(folder / "empty", "");
  MappedFile map(folder / "x");
  const MappedFile moved(std::move(map));
  EXPECT_EQ(moved.bytes().size(), 10u);
  EXPECT_EQ(moved.bytes()[9], std::byte{'9'});
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
  EXPECT_EQ(thrown_error([&] { MappedFile(folder / "y"); }).code(), ExitCode::missing_input);
  EXPECT_EQ(thrown_error([&] { MappedFile(folder.path()); }).code(), ExitCode::missing_input);
  EXPECT_EQ(thrown_error([&] { MappedFile("/dev/null"); }).code(), ExitCode::missing_input);
}

TEST(fault_plan, must_be_well_formed) {
  for (const std::string plan : {"write", "write:1", "write:0:eio", "write:x:eio", "write:1:other",
                                 "close:1:eio", ":", "::", "write:1:eio:", "write:-1:eio", "write:1 :eio"}) {
    ::setenv("TERN_FAULT", plan.c_str(), 1);
    EXPECT_EQ(thrown_error([] { reset_faults(); }).code(), ExitCode::bad_config) << plan;
  }
  ::unsetenv("TERN_FAULT");
  reset_faults();
}

}  // namespace
}  // namespace tern::io
