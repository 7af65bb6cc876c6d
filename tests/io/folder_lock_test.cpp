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

}  // namespace
}  // namespace tern::io
