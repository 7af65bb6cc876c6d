// Files that appear complete or not at all, and the few folder operations around them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"

namespace tern::io {

/// Names of unfinished files begin with this; they may be removed whenever no process writes in their folder.
inline constexpr std::string_view temporary_prefix = ".tmp-";

/// Collects a file under a temporary name in the target's folder; commit() gives it its name. Destroying an
/// uncommitted one removes the temporary. Errors as in OutputFile; after an error only destruction is useful.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Replaces bytes that were written before.
  void overwrite(std::int64_t offset, std::span<const std::byte> bytes);
  /// Syncs the file, renames it to the target and syncs the folder.
  void commit();
  /// Bytes appended so far.
  std::int64_t size() const { return size_; }
  const std::filesystem::path& target() const { return target_; }

 private:
  void flush();

  std::filesystem::path target_;
  std::vector<std::byte> buffer_;
  std::int64_t size_ = 0;
  std::unique_ptr<OutputFile> file_;  // empty once committed
};

/// Writes a whole file atomically and durably, replacing one that is there.
void write_file(const std::filesystem::path& path, std::string_view text);

/// The whole file as text. Error(missing_input) if it cannot be opened, Error(bad_data) if longer than `cap`
/// bytes.
std::string read_file(const std::filesystem::path& path, std::int64_t cap);

/// Creates a folder with its parents, durably; does nothing if it is there. Error(cannot_create).
void make_directory(const std::filesystem::path& path);

/// Removes a file or a folder with all it holds, never following links; does nothing if it is not there.
void remove_tree(const std::filesystem::path& path);

/// Removes the unfinished files and folders (temporary_prefix) directly in `folder`; returns how many there
/// were.
int remove_temporaries(const std::filesystem::path& folder);

/// Bytes that this user may still write on the file system of `path` (or of its nearest parent that exists).
std::int64_t free_bytes(const std::filesystem::path& path);

/// Whether this user may write in the folder, or make it in its nearest parent that exists.
bool is_writable(const std::filesystem::path& folder);

}  // namespace tern::io
