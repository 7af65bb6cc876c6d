#include "io/folder_lock.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "tern/error.h"

namespace tern::io {

FolderLock::FolderLock(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / ".lock";
  descriptor_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0)
    throw_error(ExitCode::cannot_create, "{}: must be writable, got {}; choose another folder", file,
                std::strerror(errno));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  close(descriptor_);
  throw_error(ExitCode::cannot_create,
              "{}: another process is writing into this folder; wait for it to end, or choose another --out",
              folder);
}

FolderLock::~FolderLock() { close(descriptor_); }

}  // namespace tern::io
