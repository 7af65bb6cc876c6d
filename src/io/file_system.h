// The thin layer below every write to disk: one function for each system call, with faults injected on demand.
//
// Test aid: TERN_FAULT=<call>:<n>:<effect> makes the n-th (from 1) call of that kind in this process fail;
// <call> is open, write, fsync, rename, mkdir, unlink or any; <effect> is enospc, eio, short (write only: half
// of the bytes are taken) or kill (SIGKILL before the call). It lets tests cut a save at each of its calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace tern::io {

enum class FileCall : std::uint8_t { open, write, fsync, rename, mkdir, unlink };

/// A file open for writing; closed by the destructor. Errors of all members name the path, the reason and a
/// fix: Error(cannot_create) where nothing can be created, Error(io_error) where writing failed or the disk is
/// full.
class OutputFile {
 public:
  enum class Mode : std::uint8_t { create_new, append };  ///< create_new fails where the path exists

  OutputFile(std::filesystem::path path, Mode mode);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Writes all bytes at the end of what was written so far.
  void write(std::span<const std::byte> bytes);
  /// Replaces bytes that begin `offset` bytes into the file.
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);
  /// Returns after the file's bytes have reached the disk.
  void sync();
  /// Closes early; a second call does nothing.
  void close();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Renames within one file system, replacing a file at `to`.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Creates one folder; true if it was created, false if a folder was there already.
bool make_single_directory(const std::filesystem::path& path);

/// Removes a file, a link or an empty folder; false if nothing was there.
bool remove_path(const std::filesystem::path& path);

/// Makes the entries of a folder (creations, renames, removals) durable.
void sync_directory(const std::filesystem::path& path);

/// Calls of all kinds made by this process since the start or the last reset_faults().
std::int64_t file_calls();

/// Reads TERN_FAULT anew and counts from zero. Error(bad_config) if it is malformed.
void reset_faults();

}  // namespace tern::io
