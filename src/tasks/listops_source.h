// The published ListOps files: basic_{train,val,test}.tsv, in the benchmark's release archive or by themselves,
// with a header line and lines "expression TAB value". As the benchmark reads an expression, parentheses mean
// nothing, "]" closes an operator, and tokens stand between blanks.
#pragma once

#include <filesystem>
#include <vector>

#include "tasks/prepared_data.h"
#include "tasks/sources.h"

namespace tern::tasks {

Sources listops_sources(std::vector<std::filesystem::path> paths);

data::RecordHeader published_listops_header();

/// Writes the splits, each in the order of its file. Damaged items: lines that are no expression, or whose
/// value is not the expression's. Error(bad_data) where a file is missing, comes twice or has no expressions.
void prepare_published_listops(const Sources& sources, Preparation& preparation);

}  // namespace tern::tasks
