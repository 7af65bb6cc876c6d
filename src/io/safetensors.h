// Safetensors: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.
// Source: the format description of huggingface/safetensors, README.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/hash.h"
#include "io/mapped_file.h"
#include "tern/device.h"

namespace tern::io {

/// One named tensor, row-major, little-endian.
struct TensorRecord {
  std::string name;
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;  ///< empty: a scalar
  std::span<const std::byte> bytes;
};

using Metadata = std::map<std::string, std::string>;

struct WrittenFile {
  std::int64_t size = 0;
  Hash128 hash;
};

/// Writes a file atomically; tensors are stored by falling element size, then by name, so that each is aligned
/// to its elements and equal contents give equal files. Caller's mistakes (duplicate or unprintable names,
/// bytes that do not fit the shape): Error(failed); errors of the disk as in AtomicFile.
WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorRecord> tensors,
                              const Metadata& metadata = {});

/// A file open for reading; the tensors' bytes are views of the map, not copies. Opening reads and checks the
/// header only. Bytes of foreign files may be unaligned: copy them, do not cast.
class SafetensorsFile {
 public:
  static constexpr std::uint64_t default_header_cap = std::uint64_t{16} << 20;

  /// Error(missing_input) without the file; Error(bad_data) with file and reason for any breach of the format:
  /// header longer than the file or `header_cap`, duplicate keys, names that are not printable UTF-8 of at most
  /// 1 KiB, unknown types, shapes that do not match their bytes, gaps, overlaps, bytes after the last tensor.
  explicit SafetensorsFile(const std::filesystem::path& path, std::uint64_t header_cap = default_header_cap);

  const std::filesystem::path& path() const { return file_.path(); }
  const Metadata& metadata() const { return metadata_; }
  /// In the order of their bytes.
  const std::vector<TensorRecord>& tensors() const { return tensors_; }
  /// nullptr if there is none of that name. Logarithmic.
  const TensorRecord* find(std::string_view name) const;
  /// Error(bad_data) if there is none of that name.
  const TensorRecord& at(std::string_view name) const;

 private:
  MappedFile file_;
  Metadata metadata_;
  std::vector<TensorRecord> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace tern::io
