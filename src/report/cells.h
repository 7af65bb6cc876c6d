// Runs gathered into cells: repetitions of one experiment with different seeds, and their statistics.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/published.h"
#include "report/recipe.h"
#include "report/run_record.h"

namespace tern::report {

struct SeedStatistics {
  std::int64_t count = 0;
  double mean = 0;
  std::optional<double> deviation;  ///< of the sample (count - 1); nothing for fewer than two values
};
SeedStatistics statistics_of(std::span<const double> values);

/// Runs that agree in task, recipe and data, one for each seed.
struct Cell {
  std::string task, mechanism;
  std::string variation;  ///< what sets it apart from other cells of its task and mechanism; empty if nothing
  std::vector<const RunRecord*> runs;  ///< by seed
  SeedStatistics test, dev, seconds, evaluation_seconds;
  std::optional<SeedStatistics> drop_last;
  double majority = 0;
  Protocol protocol = Protocol::none;
  DataOrigin origin = DataOrigin::own;
  std::optional<PublishedScore> published;  ///< for the benchmark's data and a published protocol only

  /// Mechanism and variation: "YOSO-32 (model.attention.hash=gaussian)".
  std::string row_name() const;
  /// The values of one fact of all runs, each once, joined by "; ".
  std::string facts(const std::function<std::string(const RunRecord&)>& fact) const;
};

struct Report {
  std::vector<Cell> cells;         ///< by task, then by mechanism in the order of the published tables
  std::vector<RunGap> gaps;        ///< runs without a result, and results that have no accuracy
  std::size_t not_begun = 0;       ///< number of planned runs that did not begin
  std::vector<std::string> notes;  ///< what a reader must know, one sentence each
};

/// Gathers runs, which must outlive the report. Different recipes or data never share a cell; they become cells
/// of their own, and a note says which keys differ. Of several results of one recipe and seed the last that
/// finished counts, with a note if they differ.
Report gather(const Findings& found);

}  // namespace tern::report
