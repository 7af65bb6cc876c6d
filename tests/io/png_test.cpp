#include "io/png.h"

#include <gtest/gtest.h>

#include "support/tar.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

using test::mentions;
using test::TemporaryFolder;
using test::thrown_error;

/// PNGs written by Python with zlib and struct alone, named depth-colour.png. 8-bit grey has 3 x 2 pixels
/// 0 1 2 / 253 254 255, row filters 0 and 1 (Sub) and a gAMA chunk, which must not change the values;
/// enormous.png has the same and a head that says 2^31 - 1 on both sides.
constexpr const char* program = R"(
import struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
def write(name, width, height, depth, colour):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if depth == 8 and colour == 0:
        rows = bytes([0, 0, 1, 2]) + bytes([1, 253, 1, 1])  # the second row by differences to the left
    else:
        rows = (bytes([0]) + bytes((width * channels * depth + 7) // 8)) * height
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    png += chunk(b"gAMA", struct.pack(">I", 100000))
    if colour == 3:
        png += chunk(b"PLTE", bytes(range(6)))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    open(name + ".png", "wb").write(png)
for depth, colour in (8, 0), (16, 0), (4, 0), (8, 2), (8, 3), (8, 4), (8, 6):
    write(f"{depth}-{colour}", 3, 2, depth, colour)
write("enormous", 2**31 - 1, 2**31 - 1, 8, 0)
)";

std::string python_png(const std::string& name) {
  static const TemporaryFolder folder;
  if (folder.entries() == 0) {
    test::write_bytes(folder / "make.py", program);
    test::shell(folder.path(), "python3 make.py");
  }
  return test::read_bytes(folder / (name + ".png"));
}

GreyImage read(const std::string& bytes) { return read_png(std::as_bytes(std::span(bytes)), "x.png"); }

GreyImage example(std::int64_t width, std::int64_t height) {
  GreyImage image{width, height, {}};
  for (std::int64_t i = 0; i < width * height; ++i)
    image.pixels.push_back(static_cast<std::uint8_t>(i * 37 % 256));
  return image;
}

TEST(Png, reads_what_another_program_wrote_and_applies_no_gamma) {
  const GreyImage image = read(python_png("8-0"));
  EXPECT_EQ(image.width, 3);
  EXPECT_EQ(image.height, 2);
  EXPECT_EQ(image.pixels, (std::vector<std::uint8_t>{0, 1, 2, 253, 254, 255}));
}

TEST(Png, comes_back_as_it_was_written) {
  const TemporaryFolder folder;
  for (const auto& [width, height] : {std::pair{1, 1}, {32, 32}, {7, 300}, {300, 7}}) {
    const GreyImage image = example(width, height);
    write_png(folder / "x.png", image);
    const GreyImage back = read(test::read_bytes(folder / "x.png"));
    EXPECT_EQ(back.width, width);
    EXPECT_EQ(back.height, height);
    EXPECT_EQ(back.pixels, image.pixels);
  }
  EXPECT_EQ(folder.entries(), 1);
}

TEST(Png, other_kinds_of_pixels_are_refused_by_name) {
  for (const auto& [name, kind] : {std::pair{"16-0", "16-bit grey"},
                                   {"4-0", "4-bit grey"},
                                   {"8-2", "8-bit RGB"},
                                   {"8-3", "8-bit palette"},
                                   {"8-4", "8-bit grey with alpha"},
                                   {"8-6", "8-bit RGB with alpha"}}) {
    const Error error = thrown_error([&] { read(python_png(name)); });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "x.png") && mentions(error, kind)) << error.what();
  }
}

TEST(Png, damage_anywhere_is_an_error) {
  const TemporaryFolder folder;
  write_png(folder / "x.png", example(9, 5));
  const std::string sound = test::read_bytes(folder / "x.png");
  for (std::size_t size = 0; size + 1 < sound.size(); ++size)
    EXPECT_EQ(thrown_error([&] { read(sound.substr(0, size)); }).code(), ExitCode::bad_data) << size;
  for (std::size_t at = 0; at + 12 < sound.size(); ++at) {
    std::string bytes = sound;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x20);
    EXPECT_EQ(thrown_error([&] { read(bytes); }).code(), ExitCode::bad_data) << at;
  }
  EXPECT_TRUE(mentions(thrown_error([] { read(""); }), "an empty file"));
}

TEST(Png, an_enormous_image_is_refused_before_memory_is_taken) {
  EXPECT_EQ(thrown_error([] { read(python_png("enormous")); }).code(), ExitCode::bad_data);
}

TEST(Png, pixels_must_fit_the_sides) {
  const TemporaryFolder folder;
  GreyImage image = example(4, 4);
  image.pixels.pop_back();
  EXPECT_EQ(thrown_error([&] { write_png(folder / "x.png", image); }).code(), ExitCode::failed);
  EXPECT_EQ(folder.entries(), 0);
}

}  // namespace
}  // namespace tern::io
