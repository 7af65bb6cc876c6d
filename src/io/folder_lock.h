// One writer for a folder.
#pragma once

#include <filesystem>

namespace tern::io {

/// Holds the lock of a folder (flock on its file ".lock", which stays) until destroyed; the system releases it
/// when the process ends, however it ends. Error(cannot_create) while another holder lives. On file systems
/// without locks it holds nothing.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// Error(io_error) if the folder, or the file in it, was removed or replaced since: others may write there.
  void require_held() const;

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace tern::io
