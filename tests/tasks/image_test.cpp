#include <cmath>

#include <gtest/gtest.h>

#include "io/archive.h"
#include "support/tar.h"
#include "support/thrown_error.h"
#include "tasks/image_source.h"
#include "tasks/prepared_example.h"

namespace tern::tasks {
namespace {

using test::mentions;
using test::PreparedRecord;
using test::read_split;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

/// Pixel values of the example's image: a fixed function of image, channel and place.
int value(int image, int channel, int place) { return (image * 7 + channel * 85 + place * 3) % 256; }

std::string colour_record(int image) {
  std::string record(1, static_cast<char>(image % 10));
  for (int channel = 0; channel < 3; ++channel)
    for (int place = 0; place < 1024; ++place) record += static_cast<char>(value(image, channel, place));
  return record;
}
std::string grey_record(int image) {
  std::string record(1, static_cast<char>(image % 10));
  for (int place = 0; place < 1024; ++place) record += static_cast<char>(value(image, 0, place));
  return record;
}

/// The published formula in exact integers; no example lies so near to a step that float32 would decide
/// otherwise.
int exact_grey(int red, int green, int blue) {
  return static_cast<int>((2989LL * red + 5870LL * green + 1140LL * blue) * 511 / 5100000);
}

PreparedRecord colour_image(int image) {
  std::vector<int> ids;
  for (int place = 0; place < 1024; ++place)
    ids.push_back(exact_grey(value(image, 0, place), value(image, 1, place), value(image, 2, place)));
  return {{ids}, image % 10};
}
PreparedRecord grey_image(int image) {
  std::vector<int> ids;
  for (int place = 0; place < 1024; ++place) ids.push_back(value(image, 0, place));
  return {{ids}, image % 10};
}

std::string records(std::string (*record)(int), int first, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes += record(first + i);
  return bytes;
}
std::vector<PreparedRecord> images(PreparedRecord (*image)(int), int first, int count) {
  std::vector<PreparedRecord> all;
  for (int i = 0; i < count; ++i) all.push_back(image(first + i));
  return all;
}

class Image : public testing::Test {
 protected:
  std::filesystem::path out(const std::string& name) const { return folder_ / ("out-" + name); }
  void prepare(const std::string& name, const std::vector<std::filesystem::path>& from,
               std::int64_t allowed_bad = 0) {
    const Sources sources = image_sources(from);
    Preparation preparation({.folder = out(name), .force = name == "error", .allowed_bad = allowed_bad},
                            image_header(), fingerprints_of(sources));
    prepare_image(sources, preparation);
  }
  Error error_of(const std::vector<std::filesystem::path>& from) {
    return thrown_error([&] { prepare("error", from); });
  }
  /// Five batches of four images and three images of test.
  void write_release() {
    std::filesystem::create_directory(folder_ / "cifar");
    for (int batch = 1; batch <= 5; ++batch)
      write_bytes(folder_ / ("cifar/data_batch_" + std::to_string(batch) + ".bin"),
                  records(colour_record, 4 * (batch - 1), 4));
    write_bytes(folder_ / "cifar/test_batch.bin", records(colour_record, 100, 3));
    write_bytes(folder_ / "cifar/batches.meta.txt", "airplane\n");
  }
  void write_grey() {
    std::filesystem::create_directory(folder_ / "grey");
    write_bytes(folder_ / "grey/cifar10_gray_train50k.bin", records(grey_record, 0, 20));
    write_bytes(folder_ / "grey/cifar10_gray_test10k.bin", records(grey_record, 50, 5));
  }
  TemporaryFolder folder_;
};

TEST(GreyOf, equals_the_exact_formula_up_to_rounding_at_steps) {
  int differing = 0;
  for (int red = 0; red < 256; red += 5)
    for (int green = 0; green < 256; green += 3)
      for (int blue = 0; blue < 256; ++blue) {
        const int grey = grey_of(static_cast<std::uint8_t>(red), static_cast<std::uint8_t>(green),
                                 static_cast<std::uint8_t>(blue));
        const double real = (0.2989 * red + 0.5870 * green + 0.1140 * blue) / 255 * 255.5;
        if (grey == exact_grey(red, green, blue)) continue;
        ++differing;
        EXPECT_LT(std::abs(real - std::round(real)), 1e-4) << red << " " << green << " " << blue;
      }
  EXPECT_LT(differing, 100);
  EXPECT_EQ(grey_of(0, 0, 0), 0);
  EXPECT_EQ(grey_of(255, 255, 255), 255);
  EXPECT_EQ(grey_of(255, 0, 0), 76);
  EXPECT_EQ(grey_of(0, 255, 0), 149);
  EXPECT_EQ(grey_of(0, 0, 255), 29);
  EXPECT_EQ(grey_of(59, 62, 63), 61);
}

TEST_F(Image, colours_become_grey_and_the_last_tenth_of_train_is_dev) {
  write_release();
  prepare("folder", {folder_ / "cifar"});
  EXPECT_EQ(read_split(out("folder"), "train"), images(colour_image, 0, 18));
  EXPECT_EQ(read_split(out("folder"), "dev"), images(colour_image, 18, 2));
  EXPECT_EQ(read_split(out("folder"), "test"), images(colour_image, 100, 3));
}

TEST_F(Image, an_archive_with_batches_in_another_order_gives_the_same) {
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  write_release();
  std::vector<test::TarEntry> entries;
  for (const char* name : {"data_batch_4.bin", "batches.meta.txt", "data_batch_1.bin", "test_batch.bin",
                           "data_batch_5.bin", "data_batch_3.bin", "data_batch_2.bin"})
    entries.push_back(
        {std::string("cifar-10-batches-bin/") + name, test::read_bytes(folder_ / "cifar" / name), '0', ""});
  write_bytes(folder_ / "x.tar", test::tar_bytes(entries));
  test::shell(folder_.path(), "gzip -c x.tar > cifar-10-binary.tar.gz");
  prepare("archive", {folder_ / "cifar-10-binary.tar.gz"});
  EXPECT_EQ(read_split(out("archive"), "train"), images(colour_image, 0, 18));
  EXPECT_EQ(read_split(out("archive"), "dev"), images(colour_image, 18, 2));
}

TEST_F(Image, grey_images_are_taken_as_they_are) {
  write_grey();
  prepare("grey", {folder_ / "grey"});
  EXPECT_EQ(read_split(out("grey"), "train"), images(grey_image, 0, 18));
  EXPECT_EQ(read_split(out("grey"), "dev"), images(grey_image, 18, 2));
  EXPECT_EQ(read_split(out("grey"), "test"), images(grey_image, 50, 5));
}

TEST_F(Image, damaged_images_are_named) {
  write_grey();
  std::string bytes = records(grey_record, 0, 20);
  bytes[1025 * 3] = 10;
  write_bytes(folder_ / "grey/cifar10_gray_train50k.bin", bytes + "rest");
  const Error error = error_of({folder_ / "grey"});
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "cifar10_gray_train50k.bin: 4 bytes at its end")) << error.what();
  write_bytes(folder_ / "grey/cifar10_gray_train50k.bin", bytes);
  EXPECT_TRUE(mentions(error_of({folder_ / "grey"}), "image 3: the label must lie in 0 ... 9, got 10"));
  prepare("allowed", {folder_ / "grey"}, 1);
  auto expected = images(grey_image, 0, 18);
  expected.erase(expected.begin() + 3);
  EXPECT_EQ(read_split(out("allowed"), "train"), expected);
}

TEST_F(Image, missing_repeated_and_mixed_sources_are_refused) {
  write_release();
  write_grey();
  EXPECT_TRUE(mentions(error_of({folder_ / "cifar/test_batch.bin"}), "no images of the split train"));
  EXPECT_TRUE(mentions(error_of({folder_ / "cifar", folder_ / "cifar"}), "comes twice"));
  EXPECT_TRUE(mentions(error_of({folder_ / "cifar", folder_ / "grey"}), "colour and grey"));
  EXPECT_TRUE(mentions(error_of({folder_ / "cifar/batches.meta.txt"}), "must hold data_batch"));
}

}  // namespace
}  // namespace tern::tasks
