// 8-bit grey PNG images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace tern::io {

struct GreyImage {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> pixels;  ///< [height * width], row by row from the top
};

/// The image in the bytes of a PNG file, its values as they are stored (no gamma is applied). Error(bad_data)
/// naming `where` for damage and for images that are not 8-bit grey (palette, colour, alpha, other depths) or
/// larger than 4,096 pixels on a side.
GreyImage read_png(std::span<const std::byte> bytes, std::string_view where);

/// Writes a file atomically. Errors as in io::AtomicFile; Error(failed) if the pixels do not fit the sides.
void write_png(const std::filesystem::path& path, const GreyImage& image);

}  // namespace tern::io
