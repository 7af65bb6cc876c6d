// Does one paper cite the other? Pairs of papers as Long Range Arena's Retrieval: ids are bytes + 1, label 1 is
// a citation.
//
// - published: new_aan_pairs.{train,eval,test}.tsv, in the benchmark's release archive or by themselves; lines
//   "label TAB id1 TAB id2 TAB text1 TAB text2", quote marks being text like any other;
// - a substitute for those who lack it: acl_docs.tsv ("id TAB text") and acl_pairs.tsv ("split TAB label TAB
//   id1 TAB id2"), which the records and every report call so.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "tasks/prepared_data.h"
#include "tasks/sources.h"

namespace tern::tasks {

inline constexpr int retrieval_classes = 2;
/// The benchmark reads no more of a text than this.
inline constexpr std::int64_t retrieval_text_cap = 10000;

struct RetrievalOptions {
  bool is_substitute = false;      ///< read acl_docs.tsv and acl_pairs.tsv
  std::int64_t max_length = 4000;  ///< bytes kept of each text, at most retrieval_text_cap
};

Sources retrieval_sources(std::vector<std::filesystem::path> paths, const RetrievalOptions& options);

data::RecordHeader retrieval_header(const RetrievalOptions& options);

/// Writes the splits, each in the order of its file. Damaged items: lines that are no pair, and pairs of a
/// document that is missing or comes twice. Error(bad_data) where a file is missing or comes twice.
void prepare_retrieval(const Sources& sources, const RetrievalOptions& options, Preparation& preparation);

}  // namespace tern::tasks
