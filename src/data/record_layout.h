// What reader and writer of record files agree on: the header's text and the places of the sections.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "tern/device.h"

namespace tern::data {

struct RecordHeader;

inline constexpr std::array<char, 8> record_magic{'t', 'e', 'r', 'n', 'r', 'e', 'c', 's'};
inline constexpr std::uint32_t record_version = 1;
inline constexpr std::uint32_t record_header_cap = std::uint32_t{1} << 20;
inline constexpr std::string_view prepare_again = "make the file again with `tern data prepare ... --force`";

/// The first bytes of a file.
struct FrontStart {
  std::array<char, 8> magic = record_magic;
  std::uint32_t version = record_version;
  std::uint32_t header_bytes = 0;
};
static_assert(sizeof(FrontStart) == 16);

/// Hashed parts in the order of the file.
enum class Section : std::uint8_t { front, tokens, labels, offsets };
inline constexpr std::array<std::string_view, 4> section_names{"front", "tokens", "labels", "offsets"};

struct Extent {
  std::int64_t begin = 0, bytes = 0;
};

struct RecordLayout {
  std::array<Extent, 4> sections;
  std::int64_t trailer = 0, file_bytes = 0;

  /// Name of the part that byte `at` belongs to.
  std::string_view section_at(std::int64_t at) const;
};

/// Places of all sections behind a header of `header_bytes`.
RecordLayout lay_out(const RecordHeader& header, std::uint32_t header_bytes);

/// Blanks between the end of a section and the next multiple of `alignment`.
std::int64_t gap_after(std::int64_t end, std::int64_t alignment);

/// The header as JSON text, and back. Error(bad_data) naming `path` for text that is not a sound header.
std::string header_text(const RecordHeader& header);
RecordHeader parse_header(std::string_view text, const std::filesystem::path& path);

/// What is wrong with a header, or an empty text.
std::string header_fault(const RecordHeader& header);

}  // namespace tern::data
