#include "tasks/pathfinder_data.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <gtest/gtest.h>

#include "io/archive.h"
#include "io/json.h"
#include "io/png.h"
#include "support/tar.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "tasks/pathfinder_source.h"

namespace tern::tasks::pathfinder {
namespace {

using test::mentions;
using test::read_bytes;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

namespace fs = std::filesystem;

const std::string set_folder = "pathfinder32/curv_contour_length_14";

/// Pixels and label of one image.
using Record = std::pair<std::vector<std::uint8_t>, std::int32_t>;

std::vector<Record> records_of(const fs::path& folder, std::string_view split) {
  const data::RecordFile file(split_file(folder, split));
  file.verify();
  EXPECT_EQ(file.header().task, "pathfinder");
  EXPECT_EQ(file.header().split, split);
  EXPECT_EQ(file.header().vocabulary, 256);
  EXPECT_EQ(file.header().classes, 2);
  std::vector<Record> records;
  for (std::int64_t i = 0; i < file.count(); ++i) {
    std::vector<std::uint8_t> pixels;
    for (std::int64_t at = 0; at < file.tokens(i).size(); ++at)
      pixels.push_back(static_cast<std::uint8_t>(file.tokens(i)[at]));
    EXPECT_EQ(std::ssize(pixels), file.header().padded_length);
    records.emplace_back(std::move(pixels), file.label(i));
  }
  return records;
}

std::vector<Record> all_records(const fs::path& folder) {
  std::vector<Record> all;
  for (const std::string_view split : split_names)
    for (Record& record : records_of(folder, split)) all.push_back(std::move(record));
  return all;
}

std::vector<Record> sorted(std::vector<Record> records) {
  std::sort(records.begin(), records.end());
  return records;
}

GeneratedOptions few(std::int64_t count, int size = 32) { return {{size, Difficulty::hard}, count, 7}; }

std::vector<Record> drawn(const GeneratedOptions& options) {
  const Generator generator(options.kind.size, options.kind.difficulty, options.seed);
  std::vector<Record> records;
  for (std::int64_t i = 0; i < options.count; ++i) {
    const Scene scene = generator.scene(i);
    records.emplace_back(generator.draw(scene).levels, scene.label);
  }
  return records;
}

void generate(const GeneratedOptions& options, const fs::path& folder) {
  Preparation preparation({folder}, generated_header(options));
  if (!preparation.is_complete()) prepare_generated(options, preparation);
}

struct Released {
  std::vector<SkippedItem> skipped;
};

Released release(const fs::path& from, const fs::path& folder, std::uint64_t seed = 0,
                 std::int64_t allowed_bad = 0, Kind kind = {}) {
  ReleasedImages images({from}, kind, seed);
  Preparation preparation({folder, false, allowed_bad}, images.header(), images.sources());
  if (!preparation.is_complete()) images.write(preparation);
  return {preparation.skipped()};
}

TEST(prepare_pathfinder, cuts_the_generated_images_into_80_10_and_10_percent) {
  const TemporaryFolder folder;
  generate(few(25), folder / "data");
  const std::vector<Record> expected = drawn(few(25));
  EXPECT_EQ(records_of(folder / "data", "train"), std::vector(expected.begin(), expected.begin() + 20));
  EXPECT_EQ(records_of(folder / "data", "dev"), std::vector(expected.begin() + 20, expected.begin() + 22));
  EXPECT_EQ(records_of(folder / "data", "test"), std::vector(expected.begin() + 22, expected.end()));
  const data::RecordFile file(folder / "data/train.records");
  EXPECT_EQ(data_note(file.header()), "generated");
  const io::Json options = io::parse_json(file.header().options, "options");
  EXPECT_EQ(options["size"], 32);
  EXPECT_EQ(options["difficulty"], "hard");
  EXPECT_EQ(options["count"], 25);
  EXPECT_EQ(file.header().seed, 7u);
}

TEST(prepare_pathfinder, makes_a_missing_split_again_bit_for_bit) {
  const TemporaryFolder folder;
  generate(few(30), folder / "data");
  const std::string dev = read_bytes(folder / "data/dev.records");
  fs::remove(folder / "data/dev.records");
  generate(few(30), folder / "data");
  EXPECT_EQ(read_bytes(folder / "data/dev.records"), dev);
  EXPECT_EQ(thrown_error([&] { generate(few(31), folder / "data"); }).code(), ExitCode::cannot_create);
}

TEST(prepare_pathfinder, refuses_fewer_than_ten_images_and_unpublished_sizes) {
  EXPECT_TRUE(mentions(thrown_error([] { generated_header(few(9)); }), "at least 10 images, got 9"));
  EXPECT_TRUE(mentions(thrown_error([] { generated_header(few(10, 33)); }), "32, 64, 128 or 256, got 33"));
}

TEST(write_sheet, shows_label_zero_on_the_left_and_label_one_on_the_right) {
  const TemporaryFolder folder;
  write_sheet(few(40), folder / "sheet.png");
  const std::string bytes = read_bytes(folder / "sheet.png");
  const io::GreyImage sheet = io::read_png(std::as_bytes(std::span(bytes)), "sheet");
  EXPECT_EQ(sheet.height, 4 * 34 + 2);
  EXPECT_EQ(sheet.width, 8 * 34 + 4);
  const std::vector<Record> expected = drawn(few(40));
  for (int label = 0; label < 2; ++label) {
    const auto first = std::find_if(expected.begin(), expected.end(),
                                    [&](const Record& record) { return record.second == label; });
    for (std::int64_t y = 0; y < 32; ++y)
      for (std::int64_t x = 0; x < 32; ++x)
        ASSERT_EQ(sheet.pixels[static_cast<std::size_t>((2 + y) * sheet.width + 2 + label * (4 * 34 + 2) + x)],
                  first->first[static_cast<std::size_t>(y * 32 + x)]);
  }
}

/// 60 images as PNG files in the layout of the release.
class ReleasedPathfinder : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    written_ = new TemporaryFolder;
    write_images(few(60), written_->path());
  }
  static void TearDownTestSuite() { delete std::exchange(written_, nullptr); }
  void SetUp() override { fs::copy(written_->path(), folder_.path(), fs::copy_options::recursive); }
  fs::path set() const { return folder_ / set_folder; }
  fs::path image(int number) const { return set() / format_text("imgs/0/sample_{}.png", number); }
  /// The set as a tar archive, with the images before the metadata.
  fs::path archive() const {
    std::vector<test::TarEntry> entries;
    for (int i = 59; i >= 0; --i)
      entries.push_back(
          {format_text("lra/{}/imgs/0/sample_{}.png", set_folder, i), read_bytes(image(i)), '0', ""});
    entries.push_back({"lra/" + set_folder + "/metadata/0.npy", read_bytes(set() / "metadata/0.npy"), '0', ""});
    entries.push_back({"lra/pathfinder64/curv_contour_length_14/metadata/0.npy", "other\n", '0', ""});
    entries.push_back({"lra/pathfinder32/curv_baseline/metadata/0.npy", "other\n", '0', ""});
    write_bytes(folder_ / "lra.tar", test::tar_bytes(entries));
    return folder_ / "lra.tar";
  }
  Error refused(const fs::path& from, Kind kind = {}) const {
    return thrown_error([&] { release(from, folder_ / "refused", 0, 0, kind); });
  }

  static inline TemporaryFolder* written_ = nullptr;
  TemporaryFolder folder_;
};

TEST_F(ReleasedPathfinder, metadata_has_a_line_of_the_published_fields_for_each_image) {
  const std::string text = read_bytes(set() / "metadata/0.npy");
  const Generator generator(32, Difficulty::hard, 7);
  EXPECT_TRUE(text.starts_with(format_text("imgs/0 sample_0.png 0 {} 1 14 4 2 0.5 1 1\nimgs/0 sample_1.png 1 ",
                                           generator.scene(0).label)))
      << text.substr(0, 80);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 60);
}

TEST_F(ReleasedPathfinder, every_image_comes_back_once_with_its_label) {
  EXPECT_TRUE(release(folder_.path(), folder_ / "data").skipped.empty());
  EXPECT_EQ(records_of(folder_ / "data", "train").size(), 48u);
  EXPECT_EQ(records_of(folder_ / "data", "dev").size(), 6u);
  EXPECT_EQ(records_of(folder_ / "data", "test").size(), 6u);
  EXPECT_EQ(sorted(all_records(folder_ / "data")), sorted(drawn(few(60))));
}

TEST_F(ReleasedPathfinder, drawn_images_stay_generated_and_released_ones_have_no_note) {
  const auto note_of = [&](const std::string& name) {
    return data_note(data::RecordFile(folder_ / name / "dev.records").header());
  };
  release(folder_.path(), folder_ / "drawn");
  release(set(), folder_ / "set");
  EXPECT_EQ(note_of("drawn"), "generated");
  EXPECT_EQ(note_of("set"), "generated");
  fs::rename(set() / "note.txt", set() / "imgs/note.txt");  // beside other metadata, or none, it says nothing
  release(folder_.path(), folder_ / "released");
  EXPECT_EQ(note_of("released"), "");
}

TEST_F(ReleasedPathfinder, metadata_and_images_may_be_sources_of_their_own) {
  release(set(), folder_ / "whole");
  for (const char* part : {"metadata", "imgs"}) {
    fs::create_directories(folder_ / "parts" / part);
    fs::rename(set() / part, folder_ / "parts" / part / part);
  }
  fs::rename(set() / "note.txt", folder_ / "parts/metadata/note.txt");
  const std::vector<fs::path> parts{folder_ / "parts/imgs", folder_ / "parts/metadata"};
  const auto prepare = [&](const std::vector<fs::path>& from, const fs::path& folder) {
    ReleasedImages images(from, {}, 0);
    Preparation preparation({folder}, images.header(), images.sources());
    images.write(preparation);
  };
  prepare(parts, folder_ / "joined");
  for (const std::string_view split : split_names)
    EXPECT_EQ(records_of(folder_ / "whole", split), records_of(folder_ / "joined", split)) << split;
  EXPECT_EQ(data_note(data::RecordFile(folder_ / "joined/dev.records").header()), "generated");
  fs::create_directory(folder_ / "useless");
  write_bytes(folder_ / "useless/readme", "x");
  const Error error = thrown_error([&] { prepare({parts[0], parts[1], folder_ / "useless"}, folder_ / "x"); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "useless: must hold metadata/*.npy or images, got [readme]")) << error.what();
  EXPECT_TRUE(mentions(refused(parts[0]), "must hold the metadata of one set")) << refused(parts[0]).what();
}

TEST_F(ReleasedPathfinder, lines_may_end_as_on_windows) {
  release(set(), folder_ / "a");
  test::end_lines_as_on_windows(set() / "metadata/0.npy");
  release(set(), folder_ / "b");
  EXPECT_EQ(records_of(folder_ / "a", "train"), records_of(folder_ / "b", "train"));
}

TEST_F(ReleasedPathfinder, the_seed_decides_the_split_and_the_form_of_the_source_does_not) {
  release(folder_.path(), folder_ / "a");
  release(set(), folder_ / "b");
  release(folder_.path(), folder_ / "other", 1);
  EXPECT_EQ(records_of(folder_ / "a", "train"), records_of(folder_ / "b", "train"));
  EXPECT_NE(sorted(records_of(folder_ / "a", "dev")), sorted(records_of(folder_ / "other", "dev")));
  // Not the first ones in the order of the files.
  const std::vector<Record> in_order = drawn(few(60));
  EXPECT_NE(sorted(records_of(folder_ / "a", "train")), sorted({in_order.begin(), in_order.begin() + 48}));
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  // Names in the archive have one part more, so the shuffle begins from the same order.
  release(archive(), folder_ / "c");
  for (const std::string_view split : split_names)
    EXPECT_EQ(sorted(records_of(folder_ / "a", split)), sorted(records_of(folder_ / "c", split))) << split;
}

TEST_F(ReleasedPathfinder, empty_files_are_named_and_left_out) {
  write_bytes(image(17), "");
  const Released released = release(folder_.path(), folder_ / "data");
  ASSERT_EQ(released.skipped.size(), 1u);
  EXPECT_TRUE(released.skipped[0].name.ends_with("imgs/0/sample_17.png")) << released.skipped[0].name;
  EXPECT_EQ(all_records(folder_ / "data").size(), 59u);
  const io::Json manifest = io::parse_json(read_bytes(folder_ / "data/manifest.json"), "manifest");
  EXPECT_EQ(manifest["skipped_count"], 1);
}

TEST_F(ReleasedPathfinder, damaged_items_are_errors_unless_they_are_allowed) {
  std::string bytes = read_bytes(image(3));
  bytes.resize(bytes.size() / 2);
  write_bytes(image(3), bytes);
  fs::remove(image(4));
  io::write_png(image(5), {8, 8, std::vector<std::uint8_t>(64)});
  std::string lines = read_bytes(set() / "metadata/0.npy");
  write_bytes(set() / "metadata/0.npy",
              lines + lines.substr(0, lines.find('\n') + 1) + "imgs/0 sample_99.png 99 2\n");
  const Error error = refused(folder_.path());
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "metadata/0.npy:61")) << error.what();
  std::map<std::string, std::string> reasons;
  for (const SkippedItem& item : release(folder_.path(), folder_ / "data", 0, 5).skipped)
    reasons[item.name.substr(item.name.find("0"))] = item.reason;
  ASSERT_EQ(reasons.size(), 5u);
  EXPECT_EQ(all_records(folder_ / "data").size(), 57u);
  EXPECT_EQ(thrown_error([&] { release(folder_.path(), folder_ / "strict", 0, 4); }).code(),
            ExitCode::bad_data);
}

TEST_F(ReleasedPathfinder, images_without_metadata_are_named_and_left_out) {
  write_bytes(set() / "imgs/0/sample_60.png", read_bytes(image(0)));
  const Released released = release(folder_.path(), folder_ / "data");
  ASSERT_EQ(released.skipped.size(), 1u);
  EXPECT_EQ(all_records(folder_ / "data").size(), 60u);
}

TEST_F(ReleasedPathfinder, another_set_than_the_one_asked_for_is_refused) {
  const Error size = refused(folder_.path(), {64, Difficulty::hard});
  EXPECT_EQ(size.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(size, set_folder) && mentions(size, "--size")) << size.what();
  EXPECT_TRUE(mentions(refused(folder_.path(), {32, Difficulty::easy}), "curv_baseline"));
  EXPECT_TRUE(mentions(refused(set(), {32, Difficulty::easy}), "must have 6 paddles"));
  EXPECT_TRUE(mentions(refused(set() / "imgs"), "must hold the metadata of one set"));
  fs::create_directory(folder_ / "copy");
  fs::copy(set(), folder_ / "copy/curv_contour_length_14", fs::copy_options::recursive);
  EXPECT_TRUE(mentions(refused(folder_.path()), "copy/curv_contour_length_14"));
}

TEST_F(ReleasedPathfinder, numpy_metadata_is_refused) {
  write_bytes(set() / "metadata/0.npy", std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_TRUE(mentions(refused(folder_.path()), "got a NumPy array"));
}

}  // namespace
}  // namespace tern::tasks::pathfinder
