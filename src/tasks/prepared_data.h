// What preparing the data of every task shares: a folder with train.records, dev.records, test.records and
// manifest.json; data that are there already are kept if they are the same and sound, and never replaced
// unasked.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/record_file.h"
#include "io/folder_lock.h"
#include "io/json.h"
#include "io/source_files.h"

namespace tern::tasks {

inline constexpr std::array<std::string_view, 3> split_names{"train", "dev", "test"};

inline std::filesystem::path split_file(const std::filesystem::path& folder, std::string_view split) {
  return folder / (std::string(split) + ".records");
}

/// For data::shuffled_order: an order that no epoch of training has.
inline constexpr std::uint32_t order_epoch = UINT32_MAX;

struct SplitStatistics {
  std::int64_t records = 0;
  std::vector<std::int64_t> labels;        ///< records of each class; empty for targets
  std::int64_t shortest = 0, longest = 0;  ///< tokens of a sequence
  double mean_length = 0;                  ///< tokens of a sequence
  double majority_share = 0;               ///< share of the most frequent class; 0 for targets
};

/// Counts of a split, or of several together. Linear in the number of records.
SplitStatistics statistics_of(const std::vector<std::filesystem::path>& record_files);

/// What must be said with every score on such data: the member "note" of the header's options ("generated",
/// "a substitute for ..."), or an empty text.
std::string data_note(const data::RecordHeader& header);

/// An item of the sources that is damaged and was left out.
struct SkippedItem {
  std::string split;  ///< the split it would belong to; empty where none is known yet
  std::string name, reason;
};

struct PreparationOptions {
  std::filesystem::path folder;
  bool force = false;            ///< replace other data in the folder
  std::int64_t allowed_bad = 0;  ///< damaged items that may be left out before it is an error
};

/// One preparation of one folder:
///
///   Preparation preparation(options, header, sources);
///   if (preparation.is_complete()) return;
///   for (split ...)
///     if (preparation.wants(split)) preparation.writer(split).append(...), ..., preparation.finish(split);
///   preparation.complete();
///
/// A preparation that was killed is repeated by the same call; splits that are finished are kept.
class Preparation {
 public:
  /// `header` says what the splits hold (its split is filled in here); its options and seed, with the
  /// fingerprints of the sources added to the options, decide whether data that are there are the same. Data
  /// that are the same but damaged are made again, with a warning; Error(bad_data) where the damage hides what
  /// they are or what was left out. Error(cannot_create) for other data without force, for a folder that cannot
  /// be made, and while another process prepares there.
  Preparation(PreparationOptions options, data::RecordHeader header,
              const std::vector<io::SourceFingerprint>& sources = {});

  bool is_complete() const { return missing_.empty(); }
  /// Whether this split is still to be written; the others are kept.
  bool wants(std::string_view split) const;
  /// The writer of a wanted split. Several may be in use at a time.
  data::RecordWriter& writer(std::string_view split);
  /// Completes a wanted split: its file appears.
  void finish(std::string_view split);
  /// Counts a damaged item, names it in the manifest and on stderr, and goes on; Error(bad_data) beyond
  /// allowed_bad of them.
  void skip(SkippedItem item);
  /// As skip(), for damage that is known to be part of the published data: it is named, and not an error.
  void skip_known(SkippedItem item);
  const std::vector<SkippedItem>& skipped() const { return skipped_; }

  /// Finishes the wanted splits that are not finished yet and writes the manifest.
  void complete();

  const std::filesystem::path& folder() const { return options_.folder; }

 private:
  bool is_there(std::string_view split) const;
  bool is_manifest_whole() const;
  void keep_skipped();
  void write_manifest() const;

  PreparationOptions options_;
  data::RecordHeader header_;
  std::vector<std::string> missing_;
  std::map<std::string, data::RecordWriter, std::less<>> writers_;
  std::vector<SkippedItem> skipped_;
  std::int64_t bad_ = 0;
  std::unique_ptr<io::FolderLock> lock_;
};

}  // namespace tern::tasks
