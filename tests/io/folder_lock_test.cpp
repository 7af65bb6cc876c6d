#include "io/folder_lock.h"

#include <optional>

#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

TEST(FolderLock, AdmitsOneHolderAtATime) {
  const test::TemporaryFolder folder;
  std::optional<FolderLock> first(std::in_place, folder.path());
  try {
    const FolderLock second(folder.path());
    FAIL() << "a second holder was admitted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::cannot_create);
    EXPECT_NE(std::string(error.what()).find("another process"), std::string::npos) << error.what();
  }
  first.reset();
  EXPECT_NO_THROW(FolderLock(folder.path()));
}

TEST(FolderLock, NeedsAFolderThatCanBeWritten) {
  const test::TemporaryFolder folder;
  EXPECT_THROW(FolderLock(folder.path() / "missing"), Error);
}

TEST(FolderLock, KnowsWhetherItIsStillThere) {
  const test::TemporaryFolder folder;
  std::filesystem::create_directory(folder / "x");
  const FolderLock lock(folder / "x");
  EXPECT_NO_THROW(lock.require_held());
  std::filesystem::rename(folder / "x", folder / "y");
  EXPECT_EQ(test::thrown_error([&] { lock.require_held(); }).code(), ExitCode::io_error) << "it is gone";
  std::filesystem::create_directory(folder / "x");
  const FolderLock other(folder / "x");
  EXPECT_THROW(lock.require_held(), Error) << "another holder has the place";
  EXPECT_NO_THROW(other.require_held());
}

}  // namespace
}  // namespace tern::io
