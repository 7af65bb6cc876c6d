#include "io/folder_lock.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tern/error.h"

namespace tern::io {

FolderLock::FolderLock(const std::filesystem::path& folder) : file_(folder / ".lock") {
  descriptor_ = open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0)
    throw_error(ExitCode::cannot_create, "{}: must be writable, got {}; choose another folder", file_,
                std::strerror(errno));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  close(descriptor_);
  throw_error(ExitCode::cannot_create,
              "{}: another process is writing into this folder; wait for it to end, or choose another --out",
              folder);
}

FolderLock::~FolderLock() { close(descriptor_); }

void FolderLock::require_held() const {
  struct stat held {
  }, there{};
  if (fstat(descriptor_, &held) == 0 && stat(file_.c_str(), &there) == 0 && held.st_dev == there.st_dev &&
      held.st_ino == there.st_ino)
    return;
  throw_error(
      ExitCode::io_error,
      "{}: must stay while it is written into, but was removed or replaced; start again with another --out",
      file_.parent_path());
}

}  // namespace tern::io
