// Read-only memory maps.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace tern::io {

/// A file mapped for reading; pages come in when they are touched. Replacing the file by rename leaves a map
/// intact.
class MappedFile {
 public:
  /// Error(missing_input) if the path is not a readable regular file.
  explicit MappedFile(std::filesystem::path path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace tern::io
