// PNG through libpng, which reports errors by longjmp: only functions without destructors call it, and what
// they work on lives in their caller's frame.
#include "io/png.h"

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <string>

#include <png.h>

#include "io/atomic_file.h"
#include "tern/error.h"

namespace tern::io {
namespace {

constexpr std::uint32_t side_cap = 4096;

struct Reading {
  std::span<const std::byte> rest;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::uint32_t width = 0, height = 0;
  int depth = 0, colour = 0;
  std::vector<png_byte> pixels;
  std::string fault;

  ~Reading() { png_destroy_read_struct(&png, &info, nullptr); }
};

struct Writing {
  std::vector<std::byte> bytes;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string fault;

  ~Writing() { png_destroy_write_struct(&png, &info); }
};

template <class Work>
void keep_fault(png_structp png, png_const_charp text) {
  static_cast<Work*>(png_get_error_ptr(png))->fault = text;
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

void give_bytes(png_structp png, png_bytep into, std::size_t count) {
  auto& reading = *static_cast<Reading*>(png_get_io_ptr(png));
  if (count > reading.rest.size()) png_error(png, "the data end too early");
  std::memcpy(into, reading.rest.data(), count);
  reading.rest = reading.rest.subspan(count);
}

void take_bytes(png_structp png, png_bytep bytes, std::size_t count) {
  auto& writing = *static_cast<Writing*>(png_get_io_ptr(png));
  const auto* begin = reinterpret_cast<const std::byte*>(bytes);
  writing.bytes.insert(writing.bytes.end(), begin, begin + count);
}

void flush_nothing(png_structp) {}

/// Reads up to the pixels; false on damage.
bool read_head(Reading& reading) {
  if (setjmp(png_jmpbuf(reading.png)) != 0) return false;
  png_set_read_fn(reading.png, &reading, &give_bytes);
  png_set_user_limits(reading.png, side_cap, side_cap);
  png_read_info(reading.png, reading.info);
  png_get_IHDR(reading.png, reading.info, &reading.width, &reading.height, &reading.depth, &reading.colour,
               nullptr, nullptr, nullptr);
  return true;
}

bool read_pixels(Reading& reading) {
  if (setjmp(png_jmpbuf(reading.png)) != 0) return false;
  const int passes = png_set_interlace_handling(reading.png);
  png_read_update_info(reading.png, reading.info);
  for (int pass = 0; pass < passes; ++pass)
    for (std::size_t row = 0; row < reading.height; ++row)
      png_read_row(reading.png, reading.pixels.data() + row * reading.width, nullptr);
  png_read_end(reading.png, nullptr);
  return true;
}

bool write_all(Writing& writing, const GreyImage& image) {
  if (setjmp(png_jmpbuf(writing.png)) != 0) return false;
  png_set_write_fn(writing.png, &writing, &take_bytes, &flush_nothing);
  png_set_IHDR(writing.png, writing.info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(writing.png, writing.info);
  for (std::int64_t row = 0; row < image.height; ++row)
    png_write_row(writing.png, image.pixels.data() + row * image.width);
  png_write_end(writing.png, writing.info);
  return true;
}

[[noreturn]] void damaged(std::string_view where, std::string_view reason) {
  throw_error(ExitCode::bad_data, "{}: must be a sound 8-bit grey PNG image, got: {}; get the file again",
              where, reason);
}

std::string kind_text(int colour, int depth) {
  std::string kind = colour == PNG_COLOR_TYPE_PALETTE       ? "palette"
                     : (colour & PNG_COLOR_MASK_COLOR) != 0 ? "RGB"
                                                            : "grey";
  if ((colour & PNG_COLOR_MASK_ALPHA) != 0) kind += " with alpha";
  return format_text("{}-bit {}", depth, kind);
}

}  // namespace

GreyImage read_png(std::span<const std::byte> bytes, std::string_view where) {
  constexpr std::size_t signature_bytes = 8;
  if (bytes.empty()) damaged(where, "an empty file");
  if (png_sig_cmp(reinterpret_cast<png_const_bytep>(bytes.data()), 0,
                  std::min(bytes.size(), signature_bytes)) != 0)
    damaged(where, "it does not begin as a PNG file");
  Reading reading;
  reading.rest = bytes;
  reading.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reading, &keep_fault<Reading>, &ignore_warning);
  if (reading.png != nullptr) reading.info = png_create_info_struct(reading.png);
  require(reading.info != nullptr, "{}: memory is needed to read it, got none", where);
  if (!read_head(reading)) damaged(where, reading.fault);
  if (reading.colour != PNG_COLOR_TYPE_GRAY || reading.depth != 8)
    damaged(where, kind_text(reading.colour, reading.depth) + " pixels");
  reading.pixels.resize(std::size_t{reading.width} * reading.height);
  if (!read_pixels(reading)) damaged(where, reading.fault);
  return {reading.width, reading.height, std::move(reading.pixels)};
}

void write_png(const std::filesystem::path& path, const GreyImage& image) {
  require(image.width >= 1 && image.height >= 1 && image.width <= side_cap && image.height <= side_cap &&
              static_cast<std::int64_t>(image.pixels.size()) == image.width * image.height,
          "{}: an image must have width x height pixels and sides of 1 ... {}, got {} x {} and {} pixels", path,
          side_cap, image.width, image.height, image.pixels.size());
  Writing writing;
  writing.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &writing, &keep_fault<Writing>, &ignore_warning);
  if (writing.png != nullptr) writing.info = png_create_info_struct(writing.png);
  require(writing.info != nullptr, "{}: memory is needed to write it, got none", path);
  ensure(write_all(writing, image), "{}: {}", path, writing.fault);
  AtomicFile file(path);
  file.write(writing.bytes);
  file.commit();
}

}  // namespace tern::io
