// The released Pathfinder images. They lie in folders or archives as
//
//   <set>/metadata/<k>.npy          text, one line an image, fields between blanks:
//                                   folder, file, number, label, continuity, paddles of a contour, paddles of a
//                                   distractor, paddle length, thickness, margin, number of contrasts
//   <set>/<folder>/<file>           8-bit grey PNG
//   <set>/note.txt                  not in the release: a line that is the note of the records
//   (pathfinder_data.h)
//
// where <set> ends with pathfinder<size>/<released_folder(difficulty)> in the archive of Long Range Arena.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "tasks/pathfinder_data.h"
#include "tasks/sources.h"

namespace tern::tasks::pathfinder {

/// One reading of the sources: the metadata when it is made, the images in write(). Sources are read as one:
/// they may hold the metadata and the images of the set apart.
class ReleasedImages {
 public:
  /// Takes the one set that the names allow: its last part is the folder of the difficulty or none of the
  /// three, and a part pathfinder<n> before it has the size. The images, in the order of their names, are
  /// shuffled by the seed and cut into 80, 10 and 10 percent. Error(bad_data) if no set or several are left, or
  /// if its contours are of another difficulty.
  ReleasedImages(std::vector<std::filesystem::path> paths, Kind kind, std::uint64_t seed);

  const data::RecordHeader& header() const { return header_; }
  /// Of the set alone.
  std::vector<io::SourceFingerprint> sources() const;

  /// Writes the wanted splits, each in the order of the sources. Empty image files, which the release has, and
  /// images without metadata are named and left out. Damaged items are lines that cannot be read, images that
  /// cannot or have another size, and missing ones.
  void write(Preparation& preparation);

 private:
  struct Item {
    std::int32_t label = 0;
    std::string_view split;
  };
  bool is_allowed(std::string_view set) const;
  void read_metadata();
  void read_lines(io::SourceFiles& file);
  void read_line(const std::string& line, std::string where);
  void cut();
  void append(io::SourceFiles& file, Preparation& preparation);
  /// Whether a file is of the set but no image.
  bool describes(std::string_view name) const;
  Sources files() const;

  std::vector<std::filesystem::path> paths_;
  Kind kind_;
  data::RecordHeader header_;
  std::string set_, note_;
  std::unordered_map<std::string, Item> items_;  // images by name; write() takes out what it meets
  std::vector<SkippedItem> faults_;
};

}  // namespace tern::tasks::pathfinder
