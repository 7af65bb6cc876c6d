// tern data prepare: what its subcommands share. Each task's is a file of its own, src/app/prepare_<task>.cpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "tasks/prepared_data.h"

namespace tern::app {

void add_prepare_listops(CLI::App& prepare);
void add_prepare_text(CLI::App& prepare);
void add_prepare_retrieval(CLI::App& prepare);
void add_prepare_image(CLI::App& prepare);
void add_prepare_pathfinder(CLI::App& prepare);
void add_prepare_tables(CLI::App& prepare);  ///< classification, pair and regression

/// --out and --force.
void add_output_options(CLI::App& command, tasks::PreparationOptions& options);
/// --from, for tasks that read sources.
CLI::Option* add_source_option(CLI::App& command, std::vector<std::filesystem::path>& paths,
                               const std::string& meaning);
/// --allow-bad, for tasks that read sources.
CLI::Option* add_bad_option(CLI::App& command, tasks::PreparationOptions& options);

/// Does nothing where the same data are there already; else calls `make`, which writes the splits and returns
/// what they were made from ("9,000 candidates"), and prints the table of the splits.
void prepare_data(const tasks::PreparationOptions& options, const data::RecordHeader& header,
                  const std::vector<io::SourceFingerprint>& sources,
                  const std::function<std::string(tasks::Preparation&)>& make);

}  // namespace tern::app
