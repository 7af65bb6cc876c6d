// Pathfinder images as record files: ids are grey levels, row by row; label 1 means that both discs lie on one
// contour.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "tasks/pathfinder_generator.h"
#include "tasks/prepared_data.h"

namespace tern::tasks::pathfinder {

inline constexpr int classes = 2;
inline constexpr int grey_levels = 256;
inline constexpr std::int64_t published_count = 200'000;

/// Which images.
struct Kind {
  int size = 32;
  Difficulty difficulty = Difficulty::hard;
};

struct GeneratedOptions {
  Kind kind = {};
  std::int64_t count = published_count;  ///< images: 80 % train, 10 % dev, the rest test
  std::uint64_t seed = 0;
};

/// Of the splits of any Pathfinder data.
data::RecordHeader header_of(Kind kind, std::uint64_t seed, io::Json options);
/// Images [begin, end) of `count` that a split gets: 80, 10 and 10 percent.
struct Range {
  std::int64_t begin = 0, end = 0;
};
Range range_of(std::string_view split, std::int64_t count);

/// "curv_contour_length_14" for hard: the folder of the released images.
std::string released_folder(Difficulty difficulty);

/// What says of drawn data that they are; released images have no note.
inline constexpr std::string_view generated_note = "generated";
/// Beside the metadata of a set of images: a line that is the note of records made from it.
inline constexpr std::string_view note_file = "note.txt";

/// Header of data that are drawn here, with that note.
data::RecordHeader generated_header(const GeneratedOptions& options);
/// Draws the wanted splits. Error(failed) for fewer than 10 images or an unpublished size.
void prepare_generated(const GeneratedOptions& options, Preparation& preparation);

/// Writes all images of the options as PNG files as the released ones lie: below
/// `folder`/pathfinder<size>/<released_folder>, images in imgs/<k>/sample_<i>.png, a thousand in a folder, and
/// one line for each in metadata/<k>.npy, a text file; note.txt says that they are generated. Existing files
/// are replaced.
void write_images(const GeneratedOptions& options, const std::filesystem::path& folder);

/// Writes one PNG file with the first images of each label: those with label 0 on the left, those with label 1
/// on the right.
void write_sheet(const GeneratedOptions& options, const std::filesystem::path& path);

}  // namespace tern::tasks::pathfinder
