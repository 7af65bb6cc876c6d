// IMDb movie reviews (Maas et al. 2011) as Long Range Arena's Text: ids are bytes + 1, label 1 is positive.
//
// Sources: the release (aclImdb_v1.tar.gz or its folder), whose files are
// {train,test}/{pos,neg}/<id>_<rating>.txt, or tables [*_]{train,test}.tsv with lines "label TAB id TAB rating
// TAB text". Either gives the same records: sorted by label and id, then shuffled by the seed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "tasks/prepared_data.h"
#include "tasks/sources.h"

namespace tern::tasks {

inline constexpr int text_classes = 2;

struct TextOptions {
  std::int64_t held_out = 0;  ///< training records that become dev; 0: dev is the test split, as published
  std::uint64_t seed = 0;     ///< of the order
};

Sources text_sources(std::vector<std::filesystem::path> paths);

data::RecordHeader text_header(const TextOptions& options);

/// Writes the splits; texts are kept whole. Damaged items: files and lines that are no review. Error(bad_data)
/// where a review comes twice or a split has none; Error(failed) if fewer reviews than held_out would be left.
void prepare_text(const Sources& sources, const TextOptions& options, Preparation& preparation);

}  // namespace tern::tasks
