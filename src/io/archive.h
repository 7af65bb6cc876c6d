// What stands inside one file on disk. Programs read through io/source_files.h.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace tern::io {

/// The files inside one file, each read once from front to back.
class Container {
 public:
  Container() = default;
  virtual ~Container() = default;
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  /// Moves to the next file inside, past what was not read; false behind the last.
  virtual bool next() = 0;
  /// Name inside the container, or empty where the container is one file and no more.
  virtual const std::string& name() const = 0;
  /// The next bytes of the file inside; 0 at its end.
  virtual std::size_t read(std::span<std::byte> into) = 0;
};

/// Whether this build can read archives and compressed files.
bool has_archive();

/// An archive (tar, zip, 7z) that may be compressed, or one compressed file (gzip, xz, bzip2, zstd, lz4), as
/// its content says, whatever its name. Error(bad_data) naming file and entry for damage, for links, devices
/// and other entries that are no files, and for everything in a build without libarchive.
std::unique_ptr<Container> open_archive(const std::filesystem::path& path);

}  // namespace tern::io
